#!/usr/bin/env bash
# Prometheus: reads the metrics of the services, of cert-manager, of MinIO and of Kubernetes, and says what is wrong.
source "$(dirname "$0")/functions.sh"

kustomization prometheus | sed "s|PROMETHEUS_IMAGE|$PROMETHEUS_IMAGE|" | apply
wait_for_deployments 300 monitoring prometheus
wait_for 120 "Prometheus on port $PORT_PROMETHEUS" curl --fail --silent --max-time 5 "http://127.0.0.1:$PORT_PROMETHEUS/-/ready"
