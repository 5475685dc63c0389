#!/usr/bin/env bash
# Installs MinIO's operator and the tenant "storage-tiny": one server with one volume, without TLS.
source "$(dirname "$0")/functions.sh"

credentials=$USER_HOME/minio.env

if [[ $MINIO_ROOT_PASSWORD == generate ]]; then
  if [[ $MODE == run && -f $credentials ]]; then
    MINIO_ROOT_PASSWORD=$(sed -n 's/^AWS_SECRET_ACCESS_KEY=//p' "$credentials")
  else
    MINIO_ROOT_PASSWORD=$(run_python -c 'import secrets; print(secrets.token_urlsafe(24))')
  fi
fi
[[ $MINIO_ROOT_USER =~ ^[A-Za-z0-9._-]{3,}$ ]] || fail "MINIO_ROOT_USER must be at least 3 letters, digits, dots, hyphens or underscores"
[[ $MINIO_ROOT_PASSWORD =~ ^[A-Za-z0-9._~+/=@%,:-]{8,}$ ]] || fail "MINIO_ROOT_PASSWORD must be at least 8 characters: letters, digits and ._~+/=@%,:-"

# Written before the tenant gets the password, so that a generated one is never lost.
write_file "$credentials" 600 <<CREDENTIALS
AWS_ACCESS_KEY_ID=$MINIO_ROOT_USER
AWS_SECRET_ACCESS_KEY=$MINIO_ROOT_PASSWORD
CREDENTIALS
run chown "$PROVISION_USER:" "$credentials"

archive=operator-$MINIO_OPERATOR_VERSION.tgz
download "minio-$archive" "https://raw.githubusercontent.com/minio/operator/master/helm-releases/$archive" "sha256:$MINIO_OPERATOR_SHA256"
# Set explicitly, because the image map does not reach the default inside the operator.
render_chart minio-operator minio-operator "minio-$archive" --values /dev/stdin >"$WORK/operator.yaml" <<VALUES
operator:
  replicaCount: 1
  priorityClassName: system-cluster-critical
  env: [{name: OPERATOR_STS_ENABLED, value: "off"}]
  sidecarImage: {repository: "${MINIO_SIDECAR_IMAGE%:*}", tag: "${MINIO_SIDECAR_IMAGE##*:}"}
  resources: {requests: {cpu: 20m, memory: 128Mi, ephemeral-storage: 100Mi}}
VALUES

apply <<'MANIFEST'
apiVersion: v1
kind: Namespace
metadata:
  name: minio-operator
---
apiVersion: v1
kind: Namespace
metadata:
  name: tenant-tiny
MANIFEST
apply <"$WORK/operator.yaml"
wait_for_deployments 300 minio-operator minio-operator

secret_version() { kubectl get secret storage-configuration --namespace tenant-tiny --ignore-not-found --output=jsonpath='{.metadata.resourceVersion}'; }
[[ $MODE != run ]] || before=$(secret_version)
apply <<MANIFEST
apiVersion: v1
kind: Secret
metadata:
  name: storage-configuration
  namespace: tenant-tiny
stringData:
  config.env: |
    export MINIO_ROOT_USER="$MINIO_ROOT_USER"
    export MINIO_ROOT_PASSWORD="$MINIO_ROOT_PASSWORD"
MANIFEST
apply <<MANIFEST
apiVersion: minio.min.io/v2
kind: Tenant
metadata:
  name: storage-tiny
  namespace: tenant-tiny
spec:
  image: $MINIO_IMAGE
  imagePullPolicy: IfNotPresent
  # MinIO can restart on a full node: Kubernetes evicts service pods to make room.
  priorityClassName: system-cluster-critical
  configuration: {name: storage-configuration}
  requestAutoCert: false
  # Lets Prometheus read the disk usage without a token.
  env: [{name: MINIO_PROMETHEUS_AUTH_TYPE, value: public}]
  mountPath: /export
  pools:
  - name: pool-0
    servers: 1
    volumesPerServer: 1
    resources: {requests: {cpu: 50m, memory: 256Mi}}
    volumeClaimTemplate:
      metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: standard
        resources: {requests: {storage: $MINIO_STORAGE}}
    securityContext: {runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, fsGroup: 1000}
    containerSecurityContext:
      runAsUser: 1000
      runAsGroup: 1000
      runAsNonRoot: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
---
apiVersion: v1
kind: Service
metadata:
  name: minio-service
  namespace: tenant-tiny
spec:
  type: NodePort
  selector: {v1.min.io/tenant: storage-tiny}
  ports:
  - {name: http-minio, port: 9000, targetPort: 9000, nodePort: 30100}
---
apiVersion: v1
kind: Service
metadata:
  name: console-service
  namespace: tenant-tiny
spec:
  type: NodePort
  selector: {v1.min.io/tenant: storage-tiny}
  ports:
  - {name: http-console, port: 9090, targetPort: 9090, nodePort: 30200}
MANIFEST

# Only pods of services (their storage initializers and recorders), retrainings, Prometheus and MinIO's operator reach MinIO, and, through HAProxy,
# this machine. kindnet, Kind's network plugin, checks policies before the source address is translated, so HAProxy's
# requests come from this machine's address in the Kind network.
host=$(kind_gateway)
[[ $MODE != dry-run ]] || echo "# the address of this machine is read from \"docker network inspect kind\"; for example, $host:"
apply <<MANIFEST
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: minio
  namespace: tenant-tiny
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - ports: [{port: 9000}]
    from:
    - namespaceSelector: {}
      podSelector: {matchExpressions: [{key: serving.kserve.io/inferenceservice, operator: Exists}]}
    - namespaceSelector: {}
      podSelector: {matchExpressions: [{key: mlops-poc/retraining, operator: Exists}]}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
      podSelector: {matchLabels: {app: prometheus}}
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: minio-operator}}
  - ports: [{port: 9000}, {port: 9090}]
    from:
    - ipBlock: {cidr: $host/32}
MANIFEST

# MinIO reads its root credentials only when it starts.
if [[ $MODE == run && -n $before && $before != "$(secret_version)" ]]; then
  announce "the root credentials changed: restarting MinIO"
  run kubectl delete pod --namespace tenant-tiny --selector v1.min.io/tenant=storage-tiny
fi
wait_for 300 "MinIO's server" kubectl rollout status --namespace tenant-tiny statefulset/storage-tiny-pool-0 --timeout=5s
wait_for 120 "MinIO on port $PORT_MINIO" curl --fail --silent --max-time 5 "http://127.0.0.1:$PORT_MINIO/minio/health/ready"
