#!/usr/bin/env bash
# Installs KServe's controller in Knative mode, and only the model server for scikit-learn.
source "$(dirname "$0")/functions.sh"

manifests=https://raw.githubusercontent.com/kserve/kserve/$KSERVE_VERSION/install/$KSERVE_VERSION
download "kserve-$KSERVE_VERSION.yaml" "$manifests/kserve.yaml" "sha256:$KSERVE_SHA256"
download "kserve-cluster-resources-$KSERVE_VERSION.yaml" "$manifests/kserve-cluster-resources.yaml" "sha256:$KSERVE_RUNTIMES_SHA256"

apply <<'MANIFEST'
apiVersion: v1
kind: Namespace
metadata:
  name: kserve
MANIFEST
render_kustomization kserve-controller "kserve.yaml=kserve-$KSERVE_VERSION.yaml" | apply
wait_for_deployments 300 kserve kserve-controller-manager
wait_for 120 "KServe's webhook" kubectl wait endpointslices --namespace kserve --selector kubernetes.io/service-name=kserve-webhook-server-service \
  --for=jsonpath='{.endpoints[0].conditions.ready}'=true --timeout=5s
render_kustomization kserve-runtime "kserve-cluster-resources.yaml=kserve-cluster-resources-$KSERVE_VERSION.yaml" | apply
