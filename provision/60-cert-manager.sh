#!/usr/bin/env bash
# Installs cert-manager, which issues the certificates of KServe's webhooks.
source "$(dirname "$0")/functions.sh"

archive=cert-manager-$CERT_MANAGER_VERSION.tgz
download "$archive" "https://charts.jetstack.io/charts/$archive" https://charts.jetstack.io/index.yaml

# startupapicheck is a Helm hook, which "helm template" does not run; wait_for_deployments takes its place.
render_chart cert-manager cert-manager "$archive" \
  --set crds.enabled=true --set startupapicheck.enabled=false --set global.priorityClassName=system-cluster-critical \
  --set resources.requests.cpu=10m --set resources.requests.memory=64Mi \
  --set cainjector.resources.requests.cpu=10m --set cainjector.resources.requests.memory=64Mi \
  --set webhook.resources.requests.cpu=10m --set webhook.resources.requests.memory=32Mi \
  --values /dev/stdin >"$WORK/cert-manager.yaml" <<VALUES
image: {tag: $CERT_MANAGER_VERSION}
webhook: {image: {tag: $CERT_MANAGER_VERSION}}
cainjector: {image: {tag: $CERT_MANAGER_VERSION}}
acmesolver: {image: {tag: $CERT_MANAGER_VERSION}}
VALUES

apply <<'MANIFEST'
apiVersion: v1
kind: Namespace
metadata:
  name: cert-manager
MANIFEST
apply <"$WORK/cert-manager.yaml"
wait_for_deployments 300 cert-manager cert-manager cert-manager-cainjector cert-manager-webhook
