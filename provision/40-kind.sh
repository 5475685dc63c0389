#!/usr/bin/env bash
# Creates the Kubernetes cluster: a single node in a container. Requests reach it through HAProxy.
source "$(dirname "$0")/functions.sh"

# shellcheck disable=SC2153 # from versions.env
kind_image=$(mapped_image "$NODE_IMAGE")
provide_image "$kind_image" docker

cluster_exists() { kind get clusters | grep --line-regexp "$CLUSTER_NAME"; }
# An interrupted "kind create cluster" leaves a container without a working API server, and its exit status is 0 even
# if the node never became ready.
cluster_is_complete() { docker exec "$NODE" test -e /kind/mlops-poc-created; }

if already cluster_exists && ! already node_is_running; then
  announce "starting the node"
  run_quietly docker start "$NODE"
  wait_for 60 "the node's container" node_is_running
fi
if already cluster_exists && ! already cluster_is_complete; then
  announce "an earlier run did not finish creating the cluster: re-creating it"
  run kind delete cluster --name "$CLUSTER_NAME"
fi
if ! already cluster_exists; then
  # The API server listens on apiServerAddress, 127.0.0.1 by default.
  write_file "$STATE_DIR/kind.yaml" 644 <<CONFIG
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: $CLUSTER_NAME
nodes:
- role: control-plane
  image: $kind_image
CONFIG
  announce "creating the cluster"
  run kind create cluster --config "$STATE_DIR/kind.yaml" --kubeconfig "$KUBECONFIG" --wait 300s
  wait_for_node 5
  run docker exec "$NODE" touch /kind/mlops-poc-created
fi

# kind's own policy, on-failure:1, restarts a node after a reboot with some versions of Docker only.
run_quietly docker update --restart unless-stopped "$NODE"
run_quietly kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$KUBECONFIG"
wait_for_node 300

# With a route to the Kind network, neighbours on this machine's network would reach the node, whose API server and
# NodePorts are meant for this machine only: Docker before version 28 lets them pass to every published port, and to all
# ports if the kernel forwarded packets before Docker was started.
subnet=$(kind_subnet)
bridge=$(kind_bridge)
write_file /etc/mlops-poc/firewall.nft 644 <<RULES
table ip mlops-poc
delete table ip mlops-poc
table ip mlops-poc {
  chain prerouting {
    type filter hook prerouting priority mangle
    ct state new ip daddr $subnet iifname != "$bridge" fib daddr type != local drop
  }
}
RULES
write_file /etc/systemd/system/mlops-poc-firewall.service 644 <<'UNIT'
[Unit]
Description=Keep neighbours on the network out of the Kind network
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft --file /etc/mlops-poc/firewall.nft

[Install]
WantedBy=multi-user.target
UNIT
run systemctl enable --quiet mlops-poc-firewall # at the next start
run nft --file /etc/mlops-poc/firewall.nft

# For the user's own kubectl: merged into an existing configuration.
run install -d -m 700 -o "$PROVISION_USER" "$USER_HOME/.kube"
run_quietly kind export kubeconfig --name "$CLUSTER_NAME" --kubeconfig "$USER_HOME/.kube/config"
run chown "$PROVISION_USER:" "$USER_HOME/.kube/config"
