"""The Kubernetes objects of a service, as pure functions from settings to objects."""

import base64
import hashlib
import json
import re
from typing import NamedTuple

import yaml

COMPONENTS = ("predictor", "transformer")
VERSION_LABEL = "app.kubernetes.io/version"
SPEC_ANNOTATION = "mlops-poc/spec-sha256"
STORE_ANNOTATION = "mlops-poc/store"
# Where Prometheus finds the metrics of a pod: at the model server itself. KServe's own annotation, set to "true", would
# turn the port into the one of Knative's queue-proxy, which tells of requests, not of documents, and only where the
# cluster's config-observability says so (kserve/kserve, pkg/webhook/admission/pod/metrics_aggregate_injector.go).
SCRAPING = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": "8080",
    "prometheus.io/path": "/metrics",
    "serving.kserve.io/enable-prometheus-scraping": "false",
}


class ServiceSettings(NamedTuple):
    """What a service is made of, apart from the version that it serves."""

    name: str
    namespace: str
    transformer_image: str
    bucket: str
    store_endpoint: str  # as the pods reach it: HOST:PORT, or with http:// or https:// before it
    region: str
    resources: dict  # of each container: {"requests": {"cpu", "memory"}, "limits": {"cpu", "memory"}}


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
    """Secret and ServiceAccount; without keys the Secret holds its annotations only.

    https://github.com/kserve/kserve/blob/v0.20.0/pkg/credentials/s3/s3_secret.go
    """
    scheme, _, endpoint = settings.store_endpoint.rpartition("://")
    annotations = {
        "serving.kserve.io/s3-endpoint": endpoint.rstrip("/"),
        "serving.kserve.io/s3-usehttps": "1" if scheme == "https" else "0",
        "serving.kserve.io/s3-region": settings.region,
        "serving.kserve.io/s3-useanoncredential": "false",
    }
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
    return [secret, account]


def inference_service(settings, version, access_key=None):
    """The InferenceService of a version, its transformer not yet pinned.

    It names endpoint and user of the store: KServe hands them to a pod when it is made, so that others need new pods.
    """
    store = settings.store_endpoint + (f" as {access_key}" if access_key else "")
    component = {
        "labels": {VERSION_LABEL: version},
        "annotations": {STORE_ANNOTATION: store, **SCRAPING},
        "serviceAccountName": settings.name,
        "minReplicas": 1,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    root = f"s3://{settings.bucket}/{settings.name}/{version}"
    predictor = {**component, "model": model(settings, f"{root}/model/")}
    transformer = {**component, "containers": [transformer_container(settings, f"{root}/transformer/")]}
    return sign(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": place(settings),
            "spec": {"predictor": predictor, "transformer": transformer},
        }
    )


def model(settings, uri):
    """What KServe's scikit-learn server serves."""
    return {
        "modelFormat": {"name": "sklearn"},
        "protocolVersion": "v1",
        "storageUri": uri,
        **locked_down(settings.resources),
    }


def transformer_container(settings, uri):
    return {
        "name": "kserve-container",
        "image": settings.transformer_image,
        # More than one worker breaks a KServe transformer: it scales by replicas.
        "args": ["--model_name", settings.name, "--predictor_protocol", "v1", "--workers", "1"],
        "env": [{"name": "STORAGE_URI", "value": uri}],
        **locked_down(settings.resources),
    }


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
    """Annotate each component with a digest of itself, which its revisions and pods carry too."""
    for spec in service["spec"].values():
        spec["annotations"] = {name: text for name, text in spec["annotations"].items() if name != SPEC_ANNOTATION}
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        spec["annotations"][SPEC_ANNOTATION] = digest[:16]
    return service


def signature(item):
    """The digest that a component, revision or pod carries, or None."""
    return (item or {}).get("metadata", item or {}).get("annotations", {}).get(SPEC_ANNOTATION)


def pin_transformer(service, revision):
    """Let the transformer call one revision of the predictor, whatever the traffic split says.

    Knative gives each revision a Kubernetes service of its own name. The name must be the full one: Knative's
    activator, which stands in for a revision that is scaled down, finds the revision by it
    (knative/serving, pkg/activator/handler/context_handler.go).
    """
    host = f"{revision}.{service['metadata']['namespace']}.svc.cluster.local"
    service["spec"]["transformer"]["containers"][0]["args"] += ["--predictor_host", host]
    return sign(service)


def as_yaml_without_keys(settings, version):
    """All of it as YAML for people and for kubectl apply, the keys masked."""
    secret, account = credentials(settings)
    masked = (
        "# data, masked here; keys that the cluster has already stay as they are:\n"
        "#   AWS_ACCESS_KEY_ID: '********'\n#   AWS_SECRET_ACCESS_KEY: '********'\n---\n"
    )
    return (
        dump(namespace(settings.namespace))
        + "---\n"
        + dump(secret)
        + masked
        + dump(account, inference_service(settings, version))
    )
