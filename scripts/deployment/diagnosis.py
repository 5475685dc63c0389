"""Explain why a service is not ready, and what to do about it."""

import re
from typing import Any, NamedTuple

from deployment.deployed_service import ServiceState
from deployment.kubectl import Kubectl, KubectlFailed
from deployment.manifests import KubernetesObject, signature

# Pods rarely leave these states, but a registry or store may recover: they count only after a grace period.
STUCK = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
}
PULL = r"ImagePull|ErrImage|InvalidImageName|pull image|fetch image"
# Patterns of what the cluster reports, and the advice for each. Of the first group only the first match is used.
IMAGE_ADVICE = {
    rf"({PULL}).*(40[13]|[Uu]nauthorized|[Ff]orbidden|denied|authentication required)": (
        "the registry refuses the pull: check the image's name, and name a secret that may pull it with "
        "--image-pull-secret (kubectl create secret docker-registry)"
    ),
    rf"({PULL}).*(x509|certificate)": "the nodes do not trust the registry's certificate: add its CA there",
    rf"({PULL}).*no match for platform|no matching manifest|exec format error": (
        "the image is for another processor: build it on or for that of the nodes (docker build --platform)"
    ),
    PULL: "the image cannot be pulled: check its name, push it, or load it into the cluster's nodes",
    r"no command specified|executable file not found|StartError": (
        "the image does not start a transformer: build it from transformer.Dockerfile"
    ),
    r"non-root|run as root|non-numeric user": "the image must name a numeric user other than root (USER 1000)",
}
ADVICE = {
    r"Insufficient (cpu|memory)": "no node has room: lower --cpu-request or --memory-request, or remove other services",
    r"untolerated taint|had taint": (
        "the nodes are reserved by a taint: remove it (kubectl taint nodes NODE KEY-), or add a node"
    ),
    r"OOMKilled": "it ran out of memory: raise --memory-limit",
    r"exceeded quota|failed quota": "the namespace's quota is used up: lower the requests or raise the quota",
    r"(maximum|minimum) (cpu|memory) usage per|limit to request ratio": (
        "the namespace's LimitRange does not allow these sizes: change --cpu-request, --cpu-limit, --memory-request "
        "or --memory-limit"
    ),
    r"violates PodSecurity": (
        "the namespace's Pod Security level forbids a container: if it is the storage-initializer, give it a "
        "securityContext in KServe's own settings, or use another --namespace"
    ),
    r"[Nn]o runtime found|NoSupportingRuntime": (
        "KServe has no runtime for scikit-learn: install its ClusterServingRuntimes (chart kserve-runtime-configs)"
    ),
}
# Patterns of the last lines of a container's log.
LOG_ADVICE = {
    r"CERTIFICATE_VERIFY_FAILED|SSLError|x509": "the pods do not trust the store's certificate: give --store-ca",
    r"40[13]|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied": (
        "the store refuses the service's keys: run this again to renew them"
    ),
    r"EndpointConnectionError|Could not connect|Connection refused|Name or service not known": (
        "the store cannot be reached from the cluster: check --minio-endpoint-cluster"
    ),
    r"exec format error": "the image is for another processor: build it on or for that of the nodes "
    "(docker build --platform)",
}

CRASH_ADVICE = "a container exits by itself: the last lines of its log, above, state the reason"


class Trouble(NamedTuple):
    """A reason why a pod is not ready."""

    container: str | None
    kind: str
    message: str


def explain(kubectl: Kubectl, name: str, state: ServiceState, pods: list[KubernetesObject]) -> list[str]:
    """Lines that explain why pods are not ready: from the pods themselves, else from KServe's conditions and events."""
    lines: list[str] = []
    reported: list[str] = []
    logged: list[str] = []
    for pod in pods:
        pod_name = pod["metadata"]["name"]
        for container, kind, message in troubles(pod):
            reported.append(f"{kind} {message}")
            lines.append(f"pod {pod_name}{f', container {container}' if container else ''}: {kind} {message}".strip())
            log_lines = last_log_lines(kubectl, pod_name, container)
            # A container that has just restarted has not logged its error again.
            logged += [*log_lines, *([message] if container == "storage-initializer" else [])]
            lines += [f"  | {line}" for line in log_lines]
        if not is_ready(pod):
            events = [line for line in warnings(kubectl, pod_name) if not is_resolved(line, pod)]
            reported += events
            lines += [f"pod {pod_name}: {line}" for line in events]
    if not lines:
        lines = reported = [unmet_conditions(state), *warnings(kubectl, name)]
    return lines + [f"What to do: {advice}" for advice in advise("\n".join(reported), "\n".join(logged))]


def advise(reported: str, logged: str) -> list[str]:
    """What to do, given what the cluster reported and the containers logged."""
    image = [advice for pattern, advice in IMAGE_ADVICE.items() if re.search(pattern, reported)][:1]
    others = [advice for pattern, advice in ADVICE.items() if re.search(pattern, reported)]
    log = [advice for pattern, advice in LOG_ADVICE.items() if re.search(pattern, logged)]
    crashes = re.search("CrashLoopBackOff|Back-off restarting", reported) and not (
        image or log or "OOMKilled" in reported
    )
    return image + ([CRASH_ADVICE] if crashes else []) + others + log


def is_resolved(event: str, pod: KubernetesObject) -> bool:
    """Whether an event reports a lack of room that the pod has found since."""
    scheduled = [found for found in pod.get("status", {}).get("conditions", []) if found["type"] == "PodScheduled"]
    return event.startswith("FailedScheduling") and all(found["status"] == "True" for found in scheduled)


def pods_of(state: ServiceState, spec: KubernetesObject) -> list[KubernetesObject]:
    """The pods of the version that is being deployed, without those that serve meanwhile."""
    wanted = {signature(part) for part in spec.values()}
    newest = {state.newest(name) for name in spec}
    return [
        pod for pod in state.pods if signature(pod) in wanted and (not state.on_knative or revision_of(pod) in newest)
    ]


def revision_of(pod: KubernetesObject) -> str | None:
    return pod["metadata"].get("labels", {}).get("serving.knative.dev/revision")


def is_ready(pod: KubernetesObject) -> bool:
    return any(
        found["type"] == "Ready" and found["status"] == "True" for found in pod.get("status", {}).get("conditions", [])
    )


def is_stuck(pods: list[KubernetesObject]) -> bool:
    """Whether a pod is in a state that it rarely leaves, or its container crashes again and again.

    A container that crashes after some seconds may be running whenever it is checked, and on Knative ready as well: its
    readiness probe is the queue-proxy's.
    """
    return any(trouble.kind in STUCK for pod in pods for trouble in troubles(pod)) or any(
        container.get("restartCount", 0) >= 2 for pod in pods if not is_ready(pod) for container in containers(pod)
    )


def is_unschedulable(pod: KubernetesObject) -> bool:
    """Whether no node has room for a pod."""
    return any(trouble.container is None and "Insufficient" in trouble.message for trouble in troubles(pod))


def containers(pod: KubernetesObject) -> list[KubernetesObject]:
    status = pod.get("status", {})
    return status.get("initContainerStatuses", []) + status.get("containerStatuses", [])


def troubles(pod: KubernetesObject) -> list[Trouble]:
    """What keeps a pod from being ready."""
    found = []
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            found.append(Trouble(None, condition.get("reason", ""), condition.get("message", "")))
    for container in containers(pod):
        waiting, ended = (container.get("state", {}).get(state) for state in ("waiting", "terminated"))
        previous = container.get("lastState", {}).get("terminated") or {}
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            message = " ".join(filter(None, (waiting.get("message"), exit_reason(previous))))
            found.append(Trouble(container["name"], waiting.get("reason", ""), message))
        elif ended and ended.get("exitCode"):
            found.append(Trouble(container["name"], ended.get("reason", ""), exit_reason(ended)))
        elif previous.get("exitCode") and not is_ready(pod) and container["state"].get("running"):
            found.append(Trouble(container["name"], "restarted", exit_reason(previous)))
    return found


def exit_reason(terminated: dict[str, Any]) -> str:
    """How a container exited; a container in CrashLoopBackOff shows only here that it was OOMKilled.

    The message may be the whole log, which Knative requests: only its last line is used.
    """
    if not terminated:
        return ""
    last_line = (terminated.get("message") or "").strip().rpartition("\n")[2]
    parts = (terminated.get("reason"), f"exit status {terminated.get('exitCode')}", last_line)
    return "(" + ", ".join(part for part in parts if part) + ")"


def last_log_lines(kubectl: Kubectl, pod: str, container: str | None, count: int = 10) -> list[str]:
    if container is None:
        return []
    for previous in ((), ("--previous",)):
        try:
            text = kubectl.run("logs", pod, "-n", kubectl.namespace, "-c", container, f"--tail={count}", *previous)
        except KubectlFailed:  # the container never started
            continue
        if text.strip() and not text.startswith("unable to retrieve container logs"):
            return text.rstrip().splitlines()
    return []


def warnings(kubectl: Kubectl, name: str) -> list[str]:
    """The last Warning events of a pod or the service.

    Without those that only hide the reason: failed probes, which repeat that it is not ready, and update conflicts
    between two controllers.
    """
    selector = f"involvedObject.name={name},type=Warning"
    events = (kubectl.get("events", "--field-selector", selector) or {"items": []})["items"]
    lines = [f"{event['reason']}: {event['message'].strip()}".splitlines()[0] for event in events]
    lines = [line for line in lines if not re.search("the object has been modified|probe failed", line)]
    return list(dict.fromkeys(lines))[-3:]


def reason(condition: KubernetesObject) -> str:
    """First line of a condition's message or reason; may be empty."""
    return (condition.get("message") or condition.get("reason") or "").strip().partition("\n")[0]


def rejection(state: ServiceState) -> str | None:
    """Why KServe rejects the InferenceService, or None: quotas, webhooks, a missing runtime."""
    for component in state.components:
        condition = state.condition(f"{component.capitalize()}Ready")
        if condition["status"] == "False" and condition.get("reason") == "ReconcileFailed":
            return reason(condition)
    model_status = state.status.get("modelStatus", {})
    if model_status.get("transitionStatus") == "InvalidSpec":
        failure = model_status.get("lastFailureInfo", {})
        return f"{failure.get('reason', '')}: {failure.get('message', '')}"
    return None


def unmet_conditions(state: ServiceState) -> str:
    unmet = [
        f"{found['type']}: {reason(found)}"
        for found in state.status.get("conditions", [])
        if found["status"] != "True" and found["type"] not in ("Ready", "Stopped")
    ]
    rejected = rejection(state)
    if rejected and rejected not in "; ".join(unmet):
        unmet.append(rejected)
    return "; ".join(unmet) or "KServe reports no condition; is its controller running?"
