# The Kind node and its Docker network, which exist only in mode "run". The other modes print Docker's usual addresses.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # these files read each other's settings

node_is_running() { [[ $(docker inspect --format '{{.State.Running}}' "$NODE") == true ]]; }

wait_for_node() { wait_for "$1" "a ready node $NODE" kubectl wait --for=condition=Ready "node/$NODE" --timeout=5s; } # wait_for_node SECONDS

node_address() {
  if [[ $MODE == run ]]; then docker inspect --format '{{.NetworkSettings.Networks.kind.IPAddress}}' "$NODE"; else echo 172.18.0.2; fi
}

kind_subnet() {
  local subnet=172.18.0.0/16
  [[ $MODE != run ]] || subnet=$(docker network inspect kind | jq -r '[.[0].IPAM.Config[].Subnet | select(contains(":") | not)][0] // empty')
  [[ -n $subnet ]] || fail "the Docker network \"kind\" has no IPv4 subnet; see: docker network inspect kind"
  echo "$subnet"
}

# This machine's address in the network: the one of the bridge, which Docker takes from the start of the subnet.
kind_gateway() {
  local gateway=172.18.0.1
  [[ $MODE != run ]] || gateway=$(docker network inspect kind | jq -r '[.[0].IPAM.Config[].Gateway | values | select(contains(":") | not)][0] // empty')
  [[ -n $gateway ]] || fail "the Docker network \"kind\" has no IPv4 gateway; see: docker network inspect kind"
  echo "$gateway"
}

kind_bridge() {
  local id=0123456789ab
  [[ $MODE != run ]] || id=$(docker network inspect --format '{{.Id}}' kind)
  echo "br-${id:0:12}"
}
