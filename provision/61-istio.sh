#!/usr/bin/env bash
# Installs Istio without sidecars: Knative uses only its ingress gateway. The values are those of KServe's own
# installation, with smaller requests.
source "$(dirname "$0")/functions.sh"

index=https://istio-release.storage.googleapis.com/charts/index.yaml
for name in base istiod gateway; do
  download "$name-$ISTIO_VERSION.tgz" "https://istio-release.storage.googleapis.com/charts/$name-$ISTIO_VERSION.tgz" "$index"
done

# istiod takes the gateway's image ("image: auto") from a ConfigMap. It is set there as a full reference, because the
# image map does not find one that istiod composes of hub and tag.
render_chart istio-base istio-system "base-$ISTIO_VERSION.tgz" --set defaultRevision=default >"$WORK/base.yaml"
render_chart istiod istio-system "istiod-$ISTIO_VERSION.tgz" --values /dev/stdin >"$WORK/istiod.yaml" <<VALUES
autoscaleEnabled: false
image: docker.io/istio/pilot:$ISTIO_VERSION
resources: {requests: {cpu: 50m, memory: 256Mi}}
# Without PILOT_HTTP10, Envoy returns 426 to HTTP/1.0 clients.
env: {ENABLE_GATEWAY_API_INFERENCE_EXTENSION: "true", PILOT_HTTP10: "true"}
global:
  hub: docker.io/istio
  tag: $ISTIO_VERSION
  priorityClassName: system-cluster-critical
  defaultPodDisruptionBudget: {enabled: false}
  proxy:
    autoInject: disabled
    image: docker.io/istio/proxyv2:$ISTIO_VERSION
  proxy_init:
    image: docker.io/istio/proxyv2:$ISTIO_VERSION
# An unused template, which would need one more image.
sidecarInjectorWebhook: {templates: {grpc-simple: ""}}
VALUES
render_chart istio-ingressgateway istio-system "gateway-$ISTIO_VERSION.tgz" --values /dev/stdin >"$WORK/gateway.yaml" <<VALUES
autoscaling: {enabled: false}
# Otherwise the API server sets "Always" for the chart's "image: auto", before istiod replaces it with the real image.
imagePullPolicy: IfNotPresent
priorityClassName: system-cluster-critical
resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {cpu: "2", memory: 1Gi}}
VALUES

apply <<'MANIFEST'
apiVersion: v1
kind: Namespace
metadata:
  name: istio-system
  labels: {mlops-poc/role: gateway} # deploy_service.py isolates services where these namespaces are labelled
MANIFEST
apply <"$WORK/base.yaml"
apply <"$WORK/istiod.yaml"
wait_for_deployments 300 istio-system istiod
apply <"$WORK/gateway.yaml"
apply <<'MANIFEST'
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: istio
spec:
  controller: istio.io/ingress-controller
MANIFEST
wait_for_deployments 300 istio-system istio-ingressgateway
