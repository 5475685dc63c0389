"""Build the Kubernetes objects of a service from its settings."""

import base64
import copy
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from store.client import store_prefix
from store.request_store import request_bucket

# A Kubernetes object as the API has it, or a part of one.
KubernetesObject = dict[str, Any]

COMPONENTS = ("predictor", "transformer")
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
VERSION_LABEL = "app.kubernetes.io/version"
SPEC_ANNOTATION = "mlops-poc/spec-sha256"
UPLOADED_ANNOTATION = "mlops-poc/uploaded"
ATTEMPT_ANNOTATION = "mlops-poc/attempt"
MIN_SCALE_ANNOTATION = "autoscaling.knative.dev/min-scale"  # on revisions, where KServe puts minReplicas
# On revisions, because Knative does not record whether one has ever been ready. It copies a revision's annotations to
# its pods, and so re-creates them when one is added, except those with the prefix "autoscaling.knative.dev"
# (podAnnotations in knative/serving, pkg/reconciler/revision/resources/meta.go).
READY_ANNOTATION = "autoscaling.knative.dev.mlops-poc/was-ready"
# On the namespaces of the ingress gateway, of Knative and of Prometheus: gateway, knative, prometheus.
ROLE_LABEL = "mlops-poc/role"
CLUSTER_LOCAL = {"networking.knative.dev/visibility": "cluster-local"}
# Prometheus scrapes the model server itself. KServe's own annotation, set to "true", would replace the port by that of
# Knative's queue-proxy, which counts requests but not documents, and only if the cluster's config-observability enables
# it (kserve/kserve, pkg/webhook/admission/pod/metrics_aggregate_injector.go).
SCRAPING = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": "8080",
    "prometheus.io/path": "/metrics",
    "serving.kserve.io/enable-prometheus-scraping": "false",
}

SCRYPT_COST = 2**14  # takes 50 ms
CA_FILE = "cabundle.crt"
# The keys of a Secret: those that KServe's storage initializer reads models with, and those that requests are recorded
# with.
READER_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
RECORDER_KEYS = ("RECORDER_ACCESS_KEY_ID", "RECORDER_SECRET_ACCESS_KEY")
RECORDER_PORT = 9085  # recorder.py
# The request headers that a recorded body cannot be read without, and the one that marks requests of this program.
RECORDED_HEADERS = ("Content-Encoding", "Inference-Header-Content-Length", "Smoke-Test")
# Measured: 50 MiB, and up to 100 MiB while the store does not answer.
RECORDER_RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
# Port 8080 and, for gRPC, 8081 belong to the transformer in the same pod.
COLLOCATED_PREDICTOR_PORT = 8085
COLLOCATED_PREDICTOR_ARGS = (f"--http_port={COLLOCATED_PREDICTOR_PORT}", "--enable_grpc=false")


class ServiceSettings(NamedTuple):
    """What a service consists of, apart from the version that it serves."""

    name: str
    namespace: str
    transformer_image: str
    bucket: str
    store_endpoint: str  # as seen from the pods: HOST:PORT, optionally with http:// or https://
    region: str
    resources: dict[str, dict[str, str]]  # of each container: {"requests": {"cpu", "memory"}, "limits": {...}}
    min_replicas: int  # of each component
    max_replicas: int
    collocate: bool  # predictor and transformer in one pod
    store_ca: str | None  # CA certificates that the pods trust the store by, PEM
    image_pull_secret: str | None  # name of a Secret in the namespace
    min_similarity: float | None  # option of transformer.py
    record_requests: bool  # record what clients send


class ServiceKeys(NamedTuple):
    """Access key and secret key of the service's store users."""

    reader: tuple[str, str]
    recorder: tuple[str, str] | None  # None: requests are not recorded


class Content(NamedTuple):
    """What new pods would load. A change of any field creates new pods."""

    version: str
    credentials: str  # name of the version's Secret, ServiceAccount and ConfigMap
    uploaded: str | None = None  # time of the upload, ISO 8601
    attempt: str | None = None  # time of the retry after a failed deployment, ISO 8601


class ManifestDumper(yaml.SafeDumper):
    """Writes YAML as kubectl reads it: kubectl takes 12e4 for a number, which PyYAML does not quote."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


ManifestDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if re.match(r"[-+.]?\d", text) else None
    ),
)


def dump(*manifests: KubernetesObject) -> str:
    return yaml.dump_all(manifests, Dumper=ManifestDumper, sort_keys=False)


def namespace(name: str) -> KubernetesObject:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


# --------------------------------------------------------------------------------------------------- credentials


def credentials_name(settings: ServiceSettings, keys: ServiceKeys | None = None) -> str:
    """The name of the objects that hold this content: other content gets other objects, so none is ever changed.

    A name is public. scrypt makes it expensive to guess keys from it.
    """
    content: tuple[Any, ...] = (settings.store_endpoint, settings.region, settings.store_ca, settings.image_pull_secret)
    content += (keys and keys.reader,)
    if settings.record_requests:
        content += (keys and keys.recorder,)
    return f"{settings.name}-store-{expensive_digest(json.dumps(content))}"


@functools.cache
def expensive_digest(text: str) -> str:
    return hashlib.scrypt(text.encode(), salt=b"mlops-poc", n=SCRYPT_COST, r=8, p=1, dklen=5).hex()


def credentials(settings: ServiceSettings, keys: ServiceKeys | None = None) -> list[KubernetesObject]:
    """Secret, ServiceAccount and, for a store with a custom CA, a ConfigMap with its certificates.

    KServe reads them whenever it creates a pod, also when a pod of a version that has served for weeks is replaced.
    Therefore they belong to the versions that were deployed with exactly this content.

    Without keys the Secret contains only its annotations.
    https://github.com/kserve/kserve/blob/v0.20.0/pkg/credentials/s3/s3_secret.go
    """
    name = credentials_name(settings, keys)
    account: KubernetesObject = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(settings, name),
        "secrets": [{"name": name}],
        "automountServiceAccountToken": False,  # the pods do not use the Kubernetes API
    }
    if settings.image_pull_secret:
        # Here and not in the pods: Knative uses it as well when it asks the registry for the image's digest.
        account["imagePullSecrets"] = [{"name": settings.image_pull_secret}]
    objects = [store_secret(settings, name, keys), account]
    if settings.store_ca:
        objects.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata(settings, name),
                "data": {CA_FILE: settings.store_ca},
            }
        )
    return objects


def store_secret(settings: ServiceSettings, name: str, keys: ServiceKeys | None) -> KubernetesObject:
    """The Secret with the store's address, in annotations, and the keys."""
    scheme, _, endpoint = settings.store_endpoint.rpartition("://")
    annotations = {
        "serving.kserve.io/s3-endpoint": endpoint.rstrip("/"),
        "serving.kserve.io/s3-usehttps": "1" if scheme == "https" else "0",
        "serving.kserve.io/s3-region": settings.region,
        "serving.kserve.io/s3-useanoncredential": "false",
    }
    if settings.store_ca:
        annotations["serving.kserve.io/s3-cabundle-configmap"] = name
        annotations["serving.kserve.io/s3-cabundle"] = f"/etc/ssl/custom-certs/{CA_FILE}"
    secret: KubernetesObject = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {**metadata(settings, name), "annotations": annotations},
    }
    if keys:
        names = (*READER_KEYS, *RECORDER_KEYS)
        values = (*keys.reader, *(keys.recorder or ()))
        secret["data"] = {name: base64.b64encode(key.encode()).decode() for name, key in zip(names, values)}
    return secret


def network_policies(settings: ServiceSettings) -> list[KubernetesObject]:
    """Who may open connections to the service's pods: clients come through the gateway, the transformer to the predictor.

    Knative's activator forwards requests, and its autoscaler reads metrics. Probes come from the node itself, which
    policies do not restrict.
    """
    entry = "predictor" if settings.collocate else "transformer"
    policies = [network_policy(settings, entry, [namespaces("gateway", "knative", "prometheus")])]
    if not settings.collocate:
        transformer = {"podSelector": {"matchLabels": {SERVICE_LABEL: settings.name, "component": "transformer"}}}
        policies.append(network_policy(settings, "predictor", [transformer, namespaces("knative", "prometheus")]))
    return policies


def network_policy(settings: ServiceSettings, component: str, callers: list[KubernetesObject]) -> KubernetesObject:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(settings, f"{settings.name}-{component}"),
        "spec": {
            "podSelector": {"matchLabels": {SERVICE_LABEL: settings.name, "component": component}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": callers}],
        },
    }


def namespaces(*roles: str) -> KubernetesObject:
    expression = {"key": ROLE_LABEL, "operator": "In", "values": list(roles)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def metadata(settings: ServiceSettings, name: str) -> KubernetesObject:
    return {"name": name, "namespace": settings.namespace, "labels": {SERVICE_LABEL: settings.name}}


def owner_reference(owner: KubernetesObject) -> KubernetesObject:
    """What makes Kubernetes delete an object after the last of its owners."""
    meta = owner["metadata"]
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": meta["name"], "uid": meta["uid"]}


# --------------------------------------------------------------------------------------------- InferenceService


def inference_service(settings: ServiceSettings, content: Content) -> KubernetesObject:
    """The InferenceService of a version, its transformer not yet pinned.

    Pods load the model when they start. An annotation contains the time of the upload, so that another upload creates
    new pods.
    """
    root = f"s3://{settings.bucket}/{store_prefix(settings.namespace, settings.name)}{content.version}"
    component = component_settings(settings, content)
    if settings.collocate:
        predictor = {
            **component,
            "model": model(settings, f"{root}/", args=["--model_dir=/mnt/models/model", *COLLOCATED_PREDICTOR_ARGS]),
            "containers": [collocated_transformer(settings)],
        }
        if settings.record_requests:
            record(predictor, settings, content)
        components = {"predictor": predictor}
    else:
        predictor = {
            **component,
            # Its repository API, which unloads the model, must not be reachable from outside.
            "labels": {**component["labels"], **CLUSTER_LOCAL},
            "model": model(settings, f"{root}/model/"),
        }
        container = transformer_container(settings)
        container["env"] = [{"name": "STORAGE_URI", "value": f"{root}/transformer/"}]
        transformer = {**component, "containers": [container]}
        if settings.record_requests:
            record(transformer, settings, content)
        components = {"predictor": predictor, "transformer": transformer}
    return sign(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": settings.name, "namespace": settings.namespace},
            "spec": components,
        }
    )


def component_settings(settings: ServiceSettings, content: Content) -> KubernetesObject:
    """What predictor and transformer have in common."""
    annotations = {
        **SCRAPING,
        **({UPLOADED_ANNOTATION: content.uploaded} if content.uploaded else {}),
        **({ATTEMPT_ANNOTATION: content.attempt} if content.attempt else {}),
    }
    if settings.min_replicas == settings.max_replicas:
        # The number of pods is fixed, so Knative's activator, which queues requests until there are more pods, is of no use.
        annotations["autoscaling.knative.dev/target-burst-capacity"] = "0"
    return {
        "labels": {VERSION_LABEL: content.version},
        "annotations": annotations,
        "serviceAccountName": content.credentials,
        "minReplicas": settings.min_replicas,
        "maxReplicas": settings.max_replicas,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def model(settings: ServiceSettings, uri: str, args: Iterable[str] = ()) -> KubernetesObject:
    """The container of KServe's scikit-learn server. `args` follow the runtime's own and override them."""
    return {
        "modelFormat": {"name": "sklearn"},
        "protocolVersion": "v1",
        "storageUri": uri,
        **({"args": list(args)} if args else {}),
        **container_limits(settings.resources),
    }


def transformer_container(settings: ServiceSettings) -> KubernetesObject:
    return {
        "name": "kserve-container",
        "image": settings.transformer_image,
        # With more than one worker a KServe transformer fails; it scales by replicas.
        "args": [
            *("--model_name", settings.name, "--predictor_protocol", "v1", "--workers", "1"),
            *(("--min-similarity", f"{settings.min_similarity:g}") if settings.min_similarity else ()),
        ],
        # The port opens before the transformer has verified the predictor's model. Knative refuses timeoutSeconds
        # without periodSeconds (validateReadinessProbe in its pkg/apis/serving/k8s_validation.go).
        "readinessProbe": {
            "httpGet": {"path": "/v2/health/ready", "port": 8080},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
        },
        **container_limits(settings.resources),
    }


def collocated_transformer(settings: ServiceSettings) -> KubernetesObject:
    """The transformer in the predictor's pod. KServe prescribes its name; its port is the pod's.

    https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers/collocation
    """
    container = transformer_container(settings)
    # The predictor's storage initializer downloads for both containers.
    container["args"] += ["--predictor_host", f"localhost:{COLLOCATED_PREDICTOR_PORT}"]
    container["args"] += ["--transformer-path", "/mnt/models/transformer/transformer.joblib"]
    return {**container, "name": "transformer-container", "ports": [{"containerPort": 8080, "protocol": "TCP"}]}


def record(component: KubernetesObject, settings: ServiceSettings, content: Content) -> None:
    """Let KServe's logger send the requests of a component to a recorder in its pods (recorder.py says why).

    The logger, the proxy that KServe calls agent, knows headers by their canonical names.
    """
    component["logger"] = {
        "mode": "request",
        "url": f"http://127.0.0.1:{RECORDER_PORT}",
        "metadataHeaders": list(RECORDED_HEADERS),
    }
    # Knative requires one container with a port if there are several.
    component["containers"][0]["ports"] = [{"containerPort": 8080, "protocol": "TCP"}]
    component["containers"].append(recorder_container(settings, content))
    if settings.store_ca:
        certificates = {"name": "store-ca", "configMap": {"name": content.credentials}}
        component["volumes"] = [*component["volumes"], certificates]


def recorder_container(settings: ServiceSettings, content: Content) -> KubernetesObject:
    scheme, _, endpoint = settings.store_endpoint.rpartition("://")
    prefix = store_prefix(settings.namespace, settings.name)
    container = {
        "name": "recorder",
        "image": settings.transformer_image,
        "command": ["/venv/bin/python", "/app/recorder.py"],
        "args": [
            *("--store", f"{scheme or 'http'}://{endpoint.rstrip('/')}", "--region", settings.region),
            *("--bucket", request_bucket(settings.name), "--prefix", prefix),
        ],
        "env": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": content.credentials, "key": key}}}
            for name, key in zip(READER_KEYS, RECORDER_KEYS)
        ],
        **container_limits(RECORDER_RESOURCES),
    }
    if settings.store_ca:
        container["args"] += ["--store-ca", f"/etc/store-ca/{CA_FILE}"]
        container["volumeMounts"] = [*container["volumeMounts"], {"name": "store-ca", "mountPath": "/etc/store-ca"}]
    return container


def container_limits(resources: dict[str, dict[str, str]]) -> KubernetesObject:
    """Resources, no privileges, and /tmp as the only writable place."""
    return {
        "resources": resources,
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


# ----------------------------------------------------------------------------------------------------- signatures


def sign(service: KubernetesObject) -> KubernetesObject:
    """Annotate each component with a digest of all components, which their revisions and pods inherit.

    Since both have the same digest, a change of one creates new pods of both: a rollback returns to a pair.
    """
    digest = hashlib.sha256(json.dumps(service["spec"], sort_keys=True).encode()).hexdigest()[:16]
    for spec in service["spec"].values():
        spec["annotations"] = {**spec["annotations"], SPEC_ANNOTATION: digest}
    return service


def signature(item: KubernetesObject | None) -> str | None:
    """The digest that a component, revision or pod carries, or None."""
    return annotation(item, SPEC_ANNOTATION)


def annotation(item: KubernetesObject | None, name: str) -> str | None:
    """An annotation of a component, or of an object with metadata, or None."""
    return (item or {}).get("metadata", item or {}).get("annotations", {}).get(name)


# --------------------------------------------------------------------------------------------------------- routes


def pin_transformer(service: KubernetesObject, revision: str) -> KubernetesObject:
    """The service with a transformer that calls one revision of the predictor, whatever the traffic split is.

    Knative creates a Kubernetes Service named after each revision. The full host name is required: Knative's activator,
    which receives the requests of a revision scaled to zero, resolves the revision by it (knative/serving,
    pkg/activator/handler/context_handler.go).
    """
    pinned = copy.deepcopy(service)
    host = f"{revision}.{service['metadata']['namespace']}.svc.cluster.local"
    pinned["spec"]["transformer"]["containers"][0]["args"] += ["--predictor_host", host]
    return pinned


def standby_name(service_name: str) -> str:
    return f"{service_name}-standby"


def standby_route(service: KubernetesObject, revisions: list[str]) -> KubernetesObject:
    """A Knative Route to a version that is ready but gets no requests from the service's clients.

    Knative scales a revision that no Route names to zero, whatever its min-scale (ScaleBounds in knative/serving,
    pkg/apis/autoscaling/v1alpha1/pa_lifecycle.go) and last-pod retention (lastPodRetention in
    pkg/reconciler/autoscaling/kpa/scaler.go).

    Args:
        service: the InferenceService as read from the cluster; it owns the Route.
        revisions: names; requests to the Route's host go to the first.
    """
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Route",
        "metadata": {
            "name": standby_name(service["metadata"]["name"]),
            "namespace": service["metadata"]["namespace"],
            "labels": {SERVICE_LABEL: service["metadata"]["name"]},
            "ownerReferences": [owner_reference(service)],
        },
        "spec": {
            "traffic": [
                {"revisionName": revision, "latestRevision": False, "percent": 0 if position else 100}
                for position, revision in enumerate(revisions)
            ]
        },
    }


def masked_yaml(settings: ServiceSettings, version: str) -> str:
    """All objects of a version as YAML for `kubectl apply`, the keys masked."""
    secret, *others = credentials(settings)
    names = (*READER_KEYS, *(RECORDER_KEYS if settings.record_requests else ()))
    content = Content(version, credentials_name(settings))
    masked = (
        "# data, masked here; keys that the cluster has already are not changed:\n"
        + "".join(f"#   {key}: '********'\n" for key in names)
        + "---\n"
    )
    return (
        dump(namespace(settings.namespace))
        + "---\n"
        + dump(secret)
        + masked
        + dump(*others, inference_service(settings, content))
    )
