#!/usr/bin/env bash
# Configures HAProxy, which forwards a port of this machine to KServe's gateway in the Kind network.
source "$(dirname "$0")/functions.sh"

if [[ $MODE == run ]]; then
  gateway_address() { kubectl get service istio-ingressgateway --namespace istio-system --output=jsonpath='{.status.loadBalancer.ingress[0].ip}' | grep .; }
  wait_for 120 "the Istio gateway's address from MetalLB" gateway_address
  gateway=$(gateway_address)
else
  gateway=172.18.255.200
  [[ $MODE == mirror ]] || echo "# the gateway's address is read from the cluster; for example:"
fi

# haproxy.cfg contains the placeholders BIND_ADDRESS, PORT_KSERVE, GATEWAY and MAX_BODY_BYTES.
sed -e "s/BIND_ADDRESS/$BIND_ADDRESS/" -e "s/PORT_KSERVE/$PORT_KSERVE/" -e "s/GATEWAY/$gateway/" -e "s/MAX_BODY_BYTES/$MAX_BODY_BYTES/g" \
  "$PROVISION/haproxy.cfg" >"$WORK/haproxy.cfg"

# The checksum is written after the reload: a run that was interrupted before it reloads again.
already test "$(sha256_of "$WORK/haproxy.cfg")" == "$(cat "$STATE_DIR/haproxy.sha256" 2>/dev/null)" && already systemctl is-active haproxy && exit

if [[ $MODE == run ]]; then
  command -v haproxy >/dev/null || fail "HAProxy is not installed. Install it with: sudo $PROVISION/all.sh --only docker"
  run_quietly haproxy -c -f "$WORK/haproxy.cfg" || fail "HAProxy rejects provision/haproxy.cfg, for the reason above; the running configuration is unchanged"
fi
write_file /etc/haproxy/haproxy.cfg 644 <"$WORK/haproxy.cfg"
run systemctl enable --quiet haproxy
run systemctl reload-or-restart haproxy
[[ $MODE != run ]] || sha256_of "$WORK/haproxy.cfg" >"$STATE_DIR/haproxy.sha256"
wait_for 60 "HAProxy on port $PORT_KSERVE" curl --silent --output /dev/null --max-time 5 "http://127.0.0.1:$PORT_KSERVE/"
