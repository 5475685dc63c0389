#!/usr/bin/env bash
# Installs Knative Serving and its Istio ingress from the release manifests in the repository of Knative's operator.
# They are applied directly, because images that the operator inserts would bypass the image map.
source "$(dirname "$0")/functions.sh"

manifests=https://raw.githubusercontent.com/knative/operator/knative-v$KNATIVE_VERSION/cmd/operator/kodata
crds=knative-serving-crds-$KNATIVE_VERSION.yaml
core=knative-serving-core-$KNATIVE_VERSION.yaml
net_istio=knative-net-istio-$KNATIVE_VERSION.yaml
download "$crds" "$manifests/knative-serving/$KNATIVE_VERSION/1-serving-crds.yaml" "sha256:$KNATIVE_SERVING_CRDS_SHA256"
download "$core" "$manifests/knative-serving/$KNATIVE_VERSION/2-serving-core.yaml" "sha256:$KNATIVE_SERVING_CORE_SHA256"
download "$net_istio" "$manifests/ingress/${KNATIVE_VERSION%.*}/istio/net-istio.yaml" "sha256:$KNATIVE_NET_ISTIO_SHA256"

apply <"$FILES/$crds"
render_kustomization knative "serving-core.yaml=$core" "net-istio.yaml=$net_istio" | apply
wait_for_deployments 300 knative-serving activator autoscaler controller webhook net-istio-controller net-istio-webhook
