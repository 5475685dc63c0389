#!/usr/bin/env bash
# The Kubernetes cluster: one node, which is a container. MinIO's two NodePorts are published by the container, KServe's
# gateway is reached through MetalLB and HAProxy.
source "$(dirname "$0")/functions.sh"

# shellcheck disable=SC2153 # from versions.env
image "$NODE_IMAGE" docker
kind_image=$(mapped "$NODE_IMAGE")

cluster_exists() { kind get clusters | grep --line-regexp "$CLUSTER_NAME"; }
# An interrupted "kind create cluster" leaves a container without a working API server.
cluster_is_whole() { docker exec "$NODE" test -e /kind/mlops-poc-created; }
node_runs() { [[ $(docker inspect --format '{{.State.Running}}' "$NODE") == true ]]; }

if already cluster_exists && ! already node_runs; then
  log "starting the node again"
  run docker start "$NODE"
  wait_for 60 "the node's container" node_runs
fi
if already cluster_exists && ! already cluster_is_whole; then
  log "an earlier attempt was interrupted: creating the cluster anew"
  run kind delete cluster --name "$CLUSTER_NAME"
fi
if ! already cluster_exists; then
  # apiServerAddress stays at its default, 127.0.0.1.
  write_file "$STATE_DIR/kind.yaml" 644 <<CONFIG
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: $CLUSTER_NAME
nodes:
- role: control-plane
  image: $kind_image
  extraPortMappings:
  - containerPort: 30100
    hostPort: $PORT_MINIO
    listenAddress: $BIND_ADDRESS
  - containerPort: 30200
    hostPort: $PORT_CONSOLE
    listenAddress: $BIND_ADDRESS
CONFIG
  log "creating the cluster"
  run kind create cluster --config "$STATE_DIR/kind.yaml" --kubeconfig "$KUBECONFIG" --wait 300s
  run docker exec "$NODE" touch /kind/mlops-poc-created
fi

# kind's own policy, on-failure:1, restarts a node after a reboot with some versions of Docker only.
run docker update --restart unless-stopped "$NODE"
run kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$KUBECONFIG"
wait_for 300 "a ready node $NODE" kubectl wait --for=condition=Ready "node/$NODE" --timeout=5s

# For the person who works here: merged into what they have, not written over it.
run install -d -m 700 -o "$PROVISION_USER" "$USER_HOME/.kube"
run kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$USER_HOME/.kube/config"
run chown "$PROVISION_USER:" "$USER_HOME/.kube/config"
