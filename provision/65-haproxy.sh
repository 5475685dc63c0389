#!/usr/bin/env bash
# Configures HAProxy, which forwards ports of this machine to the Kind network: to KServe's gateway, MinIO and Prometheus.
source "$(dirname "$0")/functions.sh"

if [[ $MODE == run ]]; then
  gateway_address() { kubectl get service istio-ingressgateway --namespace istio-system --output=jsonpath='{.status.loadBalancer.ingress[0].ip}' | grep .; }
  wait_for 120 "the Istio gateway's address from MetalLB" gateway_address
  gateway=$(gateway_address)
else
  gateway=172.18.255.200
  [[ $MODE == mirror ]] || echo "# the addresses of the gateway and the node are read from the cluster; for example:"
fi
node=$(node_address)
lua_file=/etc/haproxy/body-limit.lua

sed -e "s/BIND_ADDRESS/$BIND_ADDRESS/" -e "s/PORT_KSERVE/$PORT_KSERVE/" -e "s/PORT_MINIO/$PORT_MINIO/" \
  -e "s/PORT_CONSOLE/$PORT_CONSOLE/" -e "s/PORT_PROMETHEUS/$PORT_PROMETHEUS/" -e "s/GATEWAY/$gateway/" \
  -e "s/NODE_ADDRESS/$node/" -e "s/MAX_BODY_BYTES/$MAX_BODY_BYTES/g" -e "s|LUA_FILE|$lua_file|" \
  "$PROVISION/haproxy.cfg" >"$WORK/haproxy.cfg"
# A cluster of an earlier version of this project publishes these ports itself, until it is re-created.
if [[ $MODE == run && -n $(docker port "$NODE" 30100/tcp 2>/dev/null) ]]; then
  log "the node publishes the ports of MinIO and Prometheus itself, because an earlier version created it"
  sed -i '/^# NodePorts/,$d' "$WORK/haproxy.cfg"
fi

# The checksum is written after the reload: a run that was interrupted before it reloads again.
checksum=$(cat "$WORK/haproxy.cfg" "$PROVISION/body-limit.lua" | sha256sum | cut -d' ' -f1)
already test "$checksum" == "$(cat "$STATE_DIR/haproxy.sha256" 2>/dev/null)" && already systemctl is-active haproxy && exit

write_file "$lua_file" 644 <"$PROVISION/body-limit.lua"
if [[ $MODE == run ]]; then
  command -v haproxy >/dev/null || fail "HAProxy is not installed. Install it with: sudo $PROVISION/all.sh --only docker"
  run_quietly haproxy -c -f "$WORK/haproxy.cfg" || fail "HAProxy rejects provision/haproxy.cfg, for the reason above; the running configuration is unchanged"
fi
write_file /etc/haproxy/haproxy.cfg 644 <"$WORK/haproxy.cfg"
run systemctl enable --quiet haproxy
run systemctl reload-or-restart haproxy
[[ $MODE != run ]] || echo "$checksum" >"$STATE_DIR/haproxy.sha256"
wait_for 60 "HAProxy on port $PORT_KSERVE" curl --silent --output /dev/null --max-time 5 "http://127.0.0.1:$PORT_KSERVE/"
