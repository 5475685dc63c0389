"""Run retrain.py on the cluster: a CronJob, and what it needs.

The Role has what deploy_service.py uses to deploy a canary of one service. It includes the namespace's Secrets, among
which are the keys that the service reads the store with.
"""

import base64
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from deployment.deployed_service import keys_in
from deployment.kubectl import Kubectl
from deployment.manifests import KubernetesObject, dump, namespaces, owner_reference
from store.client import DeployerBucket, S3Bucket
from store.service_user import delete_service_users, retraining_keys

LABEL = "mlops-poc/retraining"  # with the name of the service; provision/70-minio.sh lets these pods reach MinIO
KINDS = "cronjob,networkpolicy,secret,configmap,rolebinding,role,serviceaccount"
CA_FOLDER = "/etc/ssl/store"
LOWEST_PRIORITY = -1_000  # the pods of services have 0
# Measured on the 18,846 posts of 20 Newsgroups: the training takes 511 MiB and 56 s of CPU, the program beside it 223 MiB.
# Requests for CPU are less than that, so that a run finds room beside services.
RESOURCES = {"requests": {"cpu": "100m", "memory": "768Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}
LONGEST_RUN = 7_200  # seconds
LATEST_START = 300

log = logging.getLogger(__name__)


class Schedule(NamedTuple):
    """When and how to run retrain.py for a service."""

    service: str
    namespace: str
    cron: str
    image: str
    arguments: list[str]  # of retrain.py, with the addresses inside the cluster
    region: str
    store_ca: str | None  # CA certificates of the store, PEM
    store_host: str  # inside the cluster: SERVICE.NAMESPACE, optionally with a port
    isolated: bool  # whether the cluster is prepared for NetworkPolicies (deployment/isolation.py)
    image_pull_secret: str | None = None  # that of the service

    @property
    def name(self) -> str:
        return f"{self.service}-retraining"


def objects(
    schedule: Schedule, keys: tuple[str, str] | None = None, owner: KubernetesObject | None = None
) -> list[KubernetesObject]:
    """All objects of a schedule, the CronJob last.

    Args:
        keys: of the store; None for a dry run.
        owner: the InferenceService, with which Kubernetes deletes those in its namespace.
    """
    built = [
        *([config_map(schedule)] if schedule.store_ca else []),
        secret(schedule, keys),
        service_account(schedule),
        role(schedule),
        role_binding(schedule),
        *([network_policy(schedule)] if schedule.isolated else []),
        cron_job(schedule),
    ]
    if owner:
        for each in built:
            each["metadata"]["ownerReferences"] = [owner_reference(owner)]
    return [priority_class(schedule), *built]


def keys(
    kubectl: Kubectl, store: DeployerBucket, schedule: Schedule, datasets: Sequence[str], share: bool
) -> tuple[str, str]:
    """The access key and secret key of a store user for the runs.

    Args:
        datasets: whose buckets it may read.
        share: whether the runs may get the user's own keys if the store cannot create a user.

    Raises:
        BadInput, Failure: as service_keys.
    """
    buckets = {name.split("/")[2] for name in datasets if name.startswith("s3://")}
    return retraining_keys(store, schedule.service, current_keys(kubectl, schedule.service), share, sorted(buckets))


def current_keys(kubectl: Kubectl, service: str) -> list[tuple[str, str]]:
    """The keys in the Secret of a service's schedule; none without a schedule."""
    found = keys_in(kubectl.get("secret", f"{service}-retraining") or {})
    return [found] if found else []


def masked_yaml(schedule: Schedule) -> str:
    """The objects as YAML, without the keys."""
    return "# The Secret also has AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.\n" + dump(*objects(schedule))


def remove(kubectl: Kubectl, store: S3Bucket, service: str) -> None:
    """Delete the store user and all objects of a schedule, and the Jobs and pods with them."""
    delete_service_users(store, service, current_keys(kubectl, service))
    selector = f"--selector={LABEL}={service}"
    options = ("--ignore-not-found", "--wait=false")
    output = kubectl.run("delete", KINDS, selector, "-n", kubectl.namespace, *options)
    output += kubectl.run("delete", "priorityclass", priority_class_name(kubectl.namespace, service), *options)
    for line in output.splitlines():
        log.info("kubectl: %s", line)


def log_next_steps(schedule: Schedule) -> None:
    log.info("To run it now: kubectl create job -n %s --from=cronjob/%s now", schedule.namespace, schedule.name)
    log.info("Its log: kubectl logs -n %s -l %s=%s --tail=-1", schedule.namespace, LABEL, schedule.service)


def metadata(schedule: Schedule) -> KubernetesObject:
    return {"name": schedule.name, "namespace": schedule.namespace, "labels": {LABEL: schedule.service}}


def priority_class_name(namespace: str, service: str) -> str:
    return f"{namespace}-{service}-retraining"


def priority_class(schedule: Schedule) -> KubernetesObject:
    """Services go first: on a full node a run waits, and makes way for them."""
    name = priority_class_name(schedule.namespace, schedule.service)
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name, "labels": {LABEL: schedule.service}},
        "value": LOWEST_PRIORITY,
        "preemptionPolicy": "Never",
        "description": f"Retraining of {schedule.service} in {schedule.namespace}: after the services",
    }


def secret(schedule: Schedule, keys: tuple[str, str] | None) -> KubernetesObject:
    """The keys of the store and, if there is one, the login of Prometheus, as environment variables."""
    values = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys)) if keys else {}
    login = ("PROMETHEUS_USER", "PROMETHEUS_PASSWORD")
    values |= {name: os.environ[name] for name in login if keys and name in os.environ}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata(schedule)} | (
        {"data": data} if data else {}
    )


def service_account(schedule: Schedule) -> KubernetesObject:
    account: KubernetesObject = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(schedule)}
    if schedule.image_pull_secret:
        account["imagePullSecrets"] = [{"name": schedule.image_pull_secret}]
    return account


def config_map(schedule: Schedule) -> KubernetesObject:
    data = {"ca.crt": schedule.store_ca}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(schedule), "data": data}


def role(schedule: Schedule) -> KubernetesObject:
    own, lease = [schedule.service], [schedule.name]
    rules = [
        rule("serving.kserve.io", ["inferenceservices"], ["list"]),
        rule("serving.kserve.io", ["inferenceservices", "inferenceservices/status"], ["get", "patch"], own),
        rule("serving.knative.dev", ["revisions"], ["get", "list", "patch"]),
        rule("serving.knative.dev", ["routes"], ["get", "list", "create", "patch"]),
        rule("", ["pods", "events"], ["get", "list"]),
        rule("", ["pods/log"], ["get"]),
        rule("", ["secrets", "serviceaccounts", "configmaps"], ["get", "list", "create", "patch"]),
        rule("coordination.k8s.io", ["leases"], ["create"]),
        rule("coordination.k8s.io", ["leases"], ["get", "update", "patch", "delete"], lease),
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(schedule),
        "rules": rules,
    }


def rule(group: str, resources: list[str], verbs: list[str], names: list[str] | None = None) -> KubernetesObject:
    limited = {"resourceNames": names} if names else {}
    return {"apiGroups": [group], "resources": resources, "verbs": verbs} | limited


def role_binding(schedule: Schedule) -> KubernetesObject:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(schedule),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": schedule.name},
        "subjects": [{"kind": "ServiceAccount", "name": schedule.name, "namespace": schedule.namespace}],
    }


def network_policy(schedule: Schedule) -> KubernetesObject:
    """Nobody reaches the pods, and they reach the store, Prometheus, the gateway, DNS and the API server.

    Policies are checked after the addresses of Kubernetes Services are translated: ports are those of the pods.
    """
    names = ["kube-system", *schedule.store_host.split(":")[0].split(".")[1:2]]
    by_name = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": names}
    within = [namespaces("gateway", "prometheus"), {"namespaceSelector": {"matchExpressions": [by_name]}}]
    api_server = [{"protocol": "TCP", "port": port} for port in (443, 6443)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(schedule),
        "spec": {
            "podSelector": {"matchLabels": {LABEL: schedule.service}},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": within}, {"ports": api_server}],
        },
    }


def cron_job(schedule: Schedule) -> KubernetesObject:
    """One run at a time; a run that failed is not repeated, because the next one continues it."""
    job: KubernetesObject = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": LONGEST_RUN,
        "template": {"metadata": {"labels": {LABEL: schedule.service}}, "spec": pod(schedule)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(schedule),
        "spec": {
            "schedule": schedule.cron,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": LATEST_START,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {"metadata": {"labels": {LABEL: schedule.service}}, "spec": job},
        },
    }


def pod(schedule: Schedule) -> KubernetesObject:
    """The pod, within the restricted level of Pod Security."""
    environment = {"HOME": "/tmp", "AWS_DEFAULT_REGION": schedule.region, "PYTHONUNBUFFERED": "1"}
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts = [{"name": "tmp", "mountPath": "/tmp"}]
    if schedule.store_ca:
        environment["AWS_CA_BUNDLE"] = f"{CA_FOLDER}/ca.crt"
        volumes.append({"name": "store-ca", "configMap": {"name": schedule.name}})
        mounts.append({"name": "store-ca", "mountPath": CA_FOLDER})
    container = {
        "name": "retrain",
        "image": schedule.image,
        "args": schedule.arguments,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "envFrom": [{"secretRef": {"name": schedule.name}}],
        "resources": RESOURCES,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": schedule.name,
        "priorityClassName": priority_class_name(schedule.namespace, schedule.service),
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": volumes,
    }
