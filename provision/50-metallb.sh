#!/usr/bin/env bash
# Installs MetalLB, which gives the Istio gateway an address of the Kind network and announces it by ARP.
# https://metallb.io/installation/ and https://metallb.io/configuration/
source "$(dirname "$0")/functions.sh"

download "metallb-native-$METALLB_VERSION.yaml" \
  "https://raw.githubusercontent.com/metallb/metallb/$METALLB_VERSION/config/manifests/metallb-native.yaml" "sha256:$METALLB_SHA256"
render_kustomization metallb "metallb-native.yaml=metallb-native-$METALLB_VERSION.yaml" | apply
wait_for_deployments 300 metallb-system controller
wait_for 300 "MetalLB's speaker" kubectl rollout status --namespace metallb-system daemonset/speaker --timeout=5s

# Docker assigns addresses from the start of a network, so MetalLB's pool is at its end.
subnet=$(kind_subnet)
[[ $MODE != dry-run ]] || echo "# the address pool is computed from the IPv4 subnet in \"docker network inspect kind\"; for example, with $subnet:"
pool=$(run_python -c 'import ipaddress, sys; n = ipaddress.ip_network(sys.argv[1]); print(f"{n[-56]}-{n[-6]}")' "$subnet")

apply <<MANIFEST
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: kind
  namespace: metallb-system
spec:
  addresses:
  - $pool
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: kind
  namespace: metallb-system
spec:
  ipAddressPools:
  - kind
MANIFEST
