"""The Kubernetes objects of a service, as pure functions from settings to objects."""

import base64
import hashlib
import json
import re
from typing import NamedTuple

import yaml

COMPONENTS = ("predictor", "transformer")
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
VERSION_LABEL = "app.kubernetes.io/version"
SPEC_ANNOTATION = "mlops-poc/spec-sha256"
STORE_ANNOTATION = "mlops-poc/store"
UPLOADED_ANNOTATION = "mlops-poc/uploaded"
ATTEMPT_ANNOTATION = "mlops-poc/attempt"
MIN_SCALE_ANNOTATION = "autoscaling.knative.dev/min-scale"  # of revisions, where KServe puts minReplicas
# Where Prometheus finds the metrics of a pod: at the model server itself. KServe's own annotation, set to "true", would
# turn the port into the one of Knative's queue-proxy, which tells of requests, not of documents, and only where the
# cluster's config-observability says so (kserve/kserve, pkg/webhook/admission/pod/metrics_aggregate_injector.go).
SCRAPING = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": "8080",
    "prometheus.io/path": "/metrics",
    "serving.kserve.io/enable-prometheus-scraping": "false",
}

AUTHORITY_FILE = "cabundle.crt"
# Beside a transformer, which has port 8080 and, for gRPC, 8081.
PREDICTOR_PORT = 8085
PREDICTOR_BESIDE = (f"--http_port={PREDICTOR_PORT}", "--enable_grpc=false")


class ServiceSettings(NamedTuple):
    """What a service is made of, apart from the version that it serves."""

    name: str
    namespace: str
    transformer_image: str
    bucket: str
    store_endpoint: str  # as the pods reach it: HOST:PORT, or with http:// or https:// before it
    region: str
    resources: dict  # of each container: {"requests": {"cpu", "memory"}, "limits": {"cpu", "memory"}}
    min_replicas: int  # of each component
    max_replicas: int
    collocate: bool  # predictor and transformer in one pod
    store_authority: str | None  # certificates that the pods trust the store by, PEM
    image_pull_secret: str | None  # name of a Secret in the namespace


class Content(NamedTuple):
    """What new pods would load: they are made anew when any of it changes."""

    version: str
    access_key: str | None = None  # of the store's user
    uploaded: str | None = None  # when the store got what it holds now
    attempt: str | None = None  # when it was tried again after a failure


class ManifestDumper(yaml.SafeDumper):
    """YAML as kubectl reads it: it takes 12e4 for a number, where PyYAML sees no need for quotes."""

    def ignore_aliases(self, data):
        return True


ManifestDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if re.match(r"[-+.]?\d", text) else None
    ),
)


def dump(*manifests):
    return yaml.dump_all(manifests, Dumper=ManifestDumper, sort_keys=False)


def namespace(name):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def place(settings):
    return {"name": settings.name, "namespace": settings.namespace}


def credentials(settings, keys=None):
    """Secret, ServiceAccount and, where the store has an authority of its own, a ConfigMap with its certificates.

    Without keys the Secret holds its annotations only.
    https://github.com/kserve/kserve/blob/v0.20.0/pkg/credentials/s3/s3_secret.go
    """
    scheme, _, endpoint = settings.store_endpoint.rpartition("://")
    annotations = {
        "serving.kserve.io/s3-endpoint": endpoint.rstrip("/"),
        "serving.kserve.io/s3-usehttps": "1" if scheme == "https" else "0",
        "serving.kserve.io/s3-region": settings.region,
        "serving.kserve.io/s3-useanoncredential": "false",
    }
    if settings.store_authority:
        annotations["serving.kserve.io/s3-cabundle-configmap"] = authority_name(settings.name)
        annotations["serving.kserve.io/s3-cabundle"] = f"/etc/ssl/custom-certs/{AUTHORITY_FILE}"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {**place(settings), "annotations": annotations},
    }
    if keys:
        secret["data"] = {
            name: base64.b64encode(key.encode()).decode()
            for name, key in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys)
        }
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": place(settings),
        "secrets": [{"name": settings.name}],
    }
    if settings.image_pull_secret:
        # Here and not in the pods: Knative asks the registry with it as well, for the image's digest.
        account["imagePullSecrets"] = [{"name": settings.image_pull_secret}]
    if not settings.store_authority:
        return [secret, account]
    authority = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**place(settings), "name": authority_name(settings.name)},
        "data": {AUTHORITY_FILE: settings.store_authority},
    }
    return [secret, account, authority]


def authority_name(service_name):
    return f"{service_name}-store-ca"


def inference_service(settings, content):
    """The InferenceService of a version, its transformer not yet pinned.

    KServe hands endpoint and user of the store to a pod when it is made, and a pod loads the artefacts when it starts:
    where any of these changes, new pods are needed, so the annotations name them.
    """
    root = f"s3://{settings.bucket}/{settings.name}/{content.version}"
    component = component_of(settings, content)
    if settings.collocate:
        predictor = {
            **component,
            "model": model(settings, f"{root}/", args=["--model_dir=/mnt/models/model", *PREDICTOR_BESIDE]),
            "containers": [collocated_transformer(settings)],
        }
        components = {"predictor": predictor}
    else:
        predictor = {**component, "model": model(settings, f"{root}/model/")}
        transformer = {**component, "containers": [transformer_container(settings, f"{root}/transformer/")]}
        components = {"predictor": predictor, "transformer": transformer}
    return sign(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": place(settings),
            "spec": components,
        }
    )


def component_of(settings, content):
    """What predictor and transformer have in common."""
    annotations = {
        **SCRAPING,
        STORE_ANNOTATION: store_in_words(settings, content.access_key),
        **({UPLOADED_ANNOTATION: content.uploaded} if content.uploaded else {}),
        **({ATTEMPT_ANNOTATION: content.attempt} if content.attempt else {}),
    }
    if settings.min_replicas == settings.max_replicas:
        # Nothing is gained by Knative's activator, which would hold requests back until there are more pods.
        annotations["autoscaling.knative.dev/target-burst-capacity"] = "0"
    return {
        "labels": {VERSION_LABEL: content.version},
        "annotations": annotations,
        "serviceAccountName": settings.name,
        "minReplicas": settings.min_replicas,
        "maxReplicas": settings.max_replicas,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def store_in_words(settings, access_key):
    """All that a pod is given of the store when it is made."""
    user = f" as {access_key}" if access_key else ""
    authority = ""
    if settings.store_authority:
        authority = f" trusting {hashlib.sha256(settings.store_authority.encode()).hexdigest()[:8]}"
    return settings.store_endpoint + user + authority


def model(settings, uri, args=()):
    """What KServe's scikit-learn server serves. Its arguments come after the runtime's own, and win."""
    return {
        "modelFormat": {"name": "sklearn"},
        "protocolVersion": "v1",
        "storageUri": uri,
        **({"args": list(args)} if args else {}),
        **locked_down(settings.resources),
    }


def transformer_container(settings, uri):
    return {
        "name": "kserve-container",
        "image": settings.transformer_image,
        # More than one worker breaks a KServe transformer: it scales by replicas.
        "args": ["--model_name", settings.name, "--predictor_protocol", "v1", "--workers", "1"],
        "env": [{"name": "STORAGE_URI", "value": uri}],
        # The port opens before the transformer knows that the predictor has the model of its own training run. Knative
        # refuses a timeout without a period (validateReadinessProbe in its pkg/apis/serving/k8s_validation.go).
        "readinessProbe": {
            "httpGet": {"path": "/v2/health/ready", "port": 8080},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
        },
        **locked_down(settings.resources),
    }


def collocated_transformer(settings):
    """The transformer beside the predictor, by KServe's fixed name; its port is the pod's.

    https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers/collocation
    """
    beside = transformer_container(settings, None)
    del beside["env"]  # the storage initializer is the predictor's, and mounts what it fetched into both
    beside["args"] += ["--predictor_host", f"localhost:{PREDICTOR_PORT}"]
    beside["args"] += ["--transformer-path", "/mnt/models/transformer/transformer.joblib"]
    return {**beside, "name": "transformer-container", "ports": [{"containerPort": 8080, "protocol": "TCP"}]}


def locked_down(resources):
    """What each container has: its share of the node, no rights, and /tmp as the only place to write."""
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


def sign(service):
    """Annotate each component with a digest of all of them, which their revisions and pods carry too.

    With one digest, a change of one component makes new pods of the other as well: a rollback returns to a pair.
    """
    digest = hashlib.sha256(json.dumps(service["spec"], sort_keys=True).encode()).hexdigest()[:16]
    for spec in service["spec"].values():
        spec["annotations"] = {**spec["annotations"], SPEC_ANNOTATION: digest}
    return service


def signature(item):
    """The digest that a component, revision or pod carries, or None."""
    return annotation(item, SPEC_ANNOTATION)


def annotation(item, name):
    """An annotation of a component, or of an object with metadata; None without."""
    return (item or {}).get("metadata", item or {}).get("annotations", {}).get(name)


def pin_transformer(service, revision):
    """Let the transformer call one revision of the predictor, whatever the traffic split says.

    Knative gives each revision a Kubernetes service of its own name. The name must be the full one: Knative's
    activator, which stands in for a revision that is scaled down, finds the revision by it
    (knative/serving, pkg/activator/handler/context_handler.go).
    """
    host = f"{revision}.{service['metadata']['namespace']}.svc.cluster.local"
    service["spec"]["transformer"]["containers"][0]["args"] += ["--predictor_host", host]


def standby_name(service_name):
    return f"{service_name}-standby"


def standby_route(service, revisions):
    """A Knative Route to a version that is ready and gets no requests of the service's clients.

    Knative gives pods only to a revision that a Route names: min-scale does not count without
    (ScaleBounds in knative/serving, pkg/apis/autoscaling/v1alpha1/pa_lifecycle.go), nor does the retention of the last
    pod (lastPodRetention in pkg/reconciler/autoscaling/kpa/scaler.go).

    Args:
        service: the InferenceService as the cluster has it; the Route goes with it.
        revisions: names; requests to the Route's own host go to the first.
    """
    owner = {name: service[name] for name in ("apiVersion", "kind")}
    owner |= {name: service["metadata"][name] for name in ("name", "uid")}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Route",
        "metadata": {
            "name": standby_name(service["metadata"]["name"]),
            "namespace": service["metadata"]["namespace"],
            "labels": {SERVICE_LABEL: service["metadata"]["name"]},
            "ownerReferences": [owner],
        },
        "spec": {
            "traffic": [
                {"revisionName": revision, "latestRevision": False, "percent": 0 if position else 100}
                for position, revision in enumerate(revisions)
            ]
        },
    }


def as_yaml_without_keys(settings, version):
    """All of it as YAML for people and for kubectl apply, the keys masked."""
    secret, *others = credentials(settings)
    masked = (
        "# data, masked here; keys that the cluster has already stay as they are:\n"
        "#   AWS_ACCESS_KEY_ID: '********'\n#   AWS_SECRET_ACCESS_KEY: '********'\n---\n"
    )
    return (
        dump(namespace(settings.namespace))
        + "---\n"
        + dump(secret)
        + masked
        + dump(*others, inference_service(settings, Content(version)))
    )
