#!/usr/bin/env bash
# The Kubernetes cluster: one node, which is a container. The NodePorts of MinIO and Prometheus are published by the container, KServe's
# gateway is reached through MetalLB and HAProxy.
source "$(dirname "$0")/functions.sh"

# shellcheck disable=SC2153 # from versions.env
image "$NODE_IMAGE" docker
kind_image=$(mapped "$NODE_IMAGE")

cluster_exists() { kind get clusters | grep --line-regexp "$CLUSTER_NAME"; }
# An interrupted "kind create cluster" leaves a container without a working API server, and one that waited in vain for
# its node ends as if all were well.
cluster_is_whole() { docker exec "$NODE" test -e /kind/mlops-poc-created; }

if already cluster_exists && ! already node_runs; then
  doing "starting the node again"
  run_quietly docker start "$NODE"
  wait_for 60 "the node's container" node_runs
fi
if already cluster_exists && ! already cluster_is_whole; then
  doing "an earlier attempt did not come to its end: creating the cluster anew"
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
  - containerPort: 30400
    hostPort: $PORT_PROMETHEUS
    listenAddress: $BIND_ADDRESS
CONFIG
  doing "creating the cluster"
  run kind create cluster --config "$STATE_DIR/kind.yaml" --kubeconfig "$KUBECONFIG" --wait 300s
  wait_for_node 5
  run docker exec "$NODE" touch /kind/mlops-poc-created
fi

# kind's own policy, on-failure:1, restarts a node after a reboot with some versions of Docker only.
run_quietly docker update --restart unless-stopped "$NODE"
run_quietly kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$KUBECONFIG"
wait_for_node 300

# For the person who works here: merged into what they have, not written over it.
run install -d -m 700 -o "$PROVISION_USER" "$USER_HOME/.kube"
run_quietly kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$USER_HOME/.kube/config"
run chown "$PROVISION_USER:" "$USER_HOME/.kube/config"
