#!/usr/bin/env bash
# Installs Prometheus, which collects metrics of the services, cert-manager, MinIO and Kubernetes, and evaluates alerts.
source "$(dirname "$0")/functions.sh"

render_kustomization prometheus | sed "s|PROMETHEUS_IMAGE|$PROMETHEUS_IMAGE|" | apply
wait_for_deployments 300 monitoring prometheus
wait_for 120 "Prometheus on port $PORT_PROMETHEUS" curl --fail --silent --max-time 5 "http://127.0.0.1:$PORT_PROMETHEUS/-/ready"
