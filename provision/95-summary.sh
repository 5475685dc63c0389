#!/usr/bin/env bash
# Waits until everything is ready, also after a restart of the machine, and prints versions and addresses.
source "$(dirname "$0")/functions.sh"
[[ $MODE != mirror ]] || exit 0

# After a failed "vagrant up", the next one runs only this step.
[[ $MODE != run || -e $STATE_DIR/versions.lock ]] ||
  fail "the platform is incomplete, because an earlier run failed or was interrupted. Continue with: vagrant provision (without Vagrant: sudo $PROVISION/all.sh)"

# After a start of the machine Docker may not be up yet; it starts the node by itself.
wait_for 120 "Docker" docker info
already node_is_running || run_quietly docker start "$NODE"
wait_for_node 300
wait_for_deployments 300 metallb-system controller
wait_for_deployments 300 istio-system istiod istio-ingressgateway
wait_for_deployments 300 knative-serving activator autoscaler controller webhook net-istio-controller net-istio-webhook
wait_for_deployments 300 cert-manager cert-manager cert-manager-cainjector cert-manager-webhook
wait_for_deployments 300 kserve kserve-controller-manager
# After a restart the node may have another address.
[[ $MODE != run ]] || "$PROVISION/65-haproxy.sh"
wait_for 300 "MinIO on port $PORT_MINIO" curl --fail --silent --max-time 5 "http://127.0.0.1:$PORT_MINIO/minio/health/ready"
wait_for_deployments 300 monitoring prometheus
wait_for 300 "Prometheus on port $PORT_PROMETHEUS" curl --fail --silent --max-time 5 "http://127.0.0.1:$PORT_PROMETHEUS/-/ready"
# The gateway's 404 for an unknown host proves that requests reach it.
gateway_answers() { [[ $(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$PORT_KSERVE/") == 404 ]]; }
if [[ $MODE == run ]]; then
  wait_for 300 "KServe's gateway on port $PORT_KSERVE" gateway_answers
else
  wait_for 300 "KServe's gateway on port $PORT_KSERVE" curl --silent --max-time 5 "http://127.0.0.1:$PORT_KSERVE/"
  exit
fi

# Knative's routes return 503 for a while after all pods are ready, so every service that has been ready before gets a
# request. Its predictor has no address outside the cluster. A broken service only causes a warning.
status_of() { curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' --header "Host: $2" "http://127.0.0.1:$PORT_KSERVE/v1/models/$1" || true; }
answers() {
  local status
  status=$(status_of "$@")
  ((10#$status >= 100 && 10#$status < 500 && 10#$status != 404))
}
kubectl get inferenceservices --all-namespaces --output=json >"$WORK/services.json"
jq -r '.items[] | select(any(.status.components[]?; .latestRolledoutRevision))
    | "\(.metadata.name) \(.status.url // empty | sub("^[a-z]+://"; ""))"' "$WORK/services.json" >"$WORK/addresses"
[[ ! -s $WORK/addresses ]] || log "waiting up to 180 s for the deployed services"
deadline=$((SECONDS + 180))
while read -r name host; do
  until answers "$name" "$host"; do
    if ((SECONDS >= deadline)); then
      echo "warning: $name returns status $(status_of "$name" "$host") for Host: $host; see: kubectl get inferenceservices --all-namespaces" >&2
      break
    fi
    sleep 2
  done
done <"$WORK/addresses"

# Under Vagrant, the ports of the host.
minio=${HOST_PORT_MINIO:-$PORT_MINIO} console=${HOST_PORT_CONSOLE:-$PORT_CONSOLE} kserve=${HOST_PORT_KSERVE:-$PORT_KSERVE}
prometheus=${HOST_PORT_PROMETHEUS:-$PORT_PROMETHEUS} prometheus_tag=${PROMETHEUS_IMAGE%@*}
ssh_first=
[[ $PROVISION_USER != vagrant ]] || ssh_first=', after "vagrant ssh"'
minio_tag=${MINIO_IMAGE%@*}
transformer_image=$(transformer_image)
cat <<TABLE

  What            Version                          Where
  --------------  -------------------------------  ----------------------------------------------
$(printf '  %-14s  %-31s  %s\n' \
  Kubernetes "$(kubectl version --output=json | jq -r .serverVersion.gitVersion)" "kind $KIND_VERSION, one node: $NODE" \
  MetalLB "$METALLB_VERSION" "namespace metallb-system" \
  cert-manager "$CERT_MANAGER_VERSION" "namespace cert-manager" \
  Istio "$ISTIO_VERSION" "namespace istio-system" \
  Knative "$KNATIVE_VERSION" "namespace knative-serving" \
  KServe "$KSERVE_VERSION" "http://localhost:$kserve/serving/<namespace>/<name>/ (or Host: <name>.<namespace>.example.com)" \
  MinIO "${minio_tag##*:}" "http://localhost:$minio (console: http://localhost:$console)" \
  Prometheus "${prometheus_tag##*:}" "http://localhost:$prometheus (alerts: http://localhost:$prometheus/alerts)" \
  Transformer "${transformer_image##*:}" "$transformer_image")

MinIO's user is "$MINIO_ROOT_USER"; its password is in $USER_HOME/minio.env.

Next${ssh_first}, with model.joblib, transformer.joblib and clusters.json from scripts/text_clustering.py:

  set -a; . $USER_HOME/minio.env; set +a
  $USER_HOME/venv/bin/python $REPOSITORY/scripts/deploy_service.py --model-path $REPOSITORY/model.joblib --model-name textclustering --namespace kserve-textclustering --transformer-path $REPOSITORY/transformer.joblib --transformer-image $transformer_image

TABLE
