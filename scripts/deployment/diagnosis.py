"""Why a service is not ready, and what to do about it."""

import re

from deployment.kubectl import KubectlFailed
from deployment.manifests import signature

# Pods in these states seldom recover, but a registry or store may hiccup: they count after a while.
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
# What the cluster says, and what to do. Of the first group one line is given, the most particular.
IMAGE_ADVICE = {
    rf"({PULL}).*(40[13]|[Uu]nauthorized|[Ff]orbidden|denied|authentication required)": (
        "the registry refuses the pull: check the image's name, and name a secret that may pull it with "
        "--image-pull-secret (kubectl create secret docker-registry)"
    ),
    rf"({PULL}).*(x509|certificate)": "the cluster does not trust the registry's certificate: add its authority there",
    rf"({PULL}).*no match for platform|no matching manifest|exec format error": (
        "the image is for another processor: build it on or for that of the nodes (docker build --platform)"
    ),
    PULL: "the image cannot be had: check its name, push it, or load it into the cluster's nodes",
    r"no command specified|executable file not found|StartError": (
        "the image does not start a transformer: build it from transformer.Dockerfile"
    ),
    r"non-root|run as root|non-numeric user": "the image must name a numeric user other than root (USER 1000)",
}
ADVICE = {
    r"Insufficient (cpu|memory)": "no node has room: lower --cpu-request or --memory-request, or remove other services",
    r"untolerated taint|had taint": (
        "the nodes are kept for others: remove the taint (kubectl taint nodes NODE KEY-), or add a node"
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
# What the last lines of a container's log say.
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

CRASH_ADVICE = "a container ends by itself: the last lines of its log, above, say why"


def explain(kubectl, name, view, pods):
    """Why pods are not ready, line by line: from the pods themselves, or else from KServe's conditions and events."""
    lines, said, logged = [], [], []
    for pod in pods:
        pod_name = pod["metadata"]["name"]
        for container, kind, message in troubles(pod):
            said.append(f"{kind} {message}")
            lines.append(f"pod {pod_name}{f', container {container}' if container else ''}: {kind} {message}".strip())
            log_lines = last_log_lines(kubectl, pod_name, container)
            logged += log_lines
            lines += [f"  | {line}" for line in log_lines]
        if not is_ready(pod):
            told = [line for line in warnings(kubectl, pod_name) if not is_over(line, pod)]
            said += told
            lines += [f"pod {pod_name}: {line}" for line in told]
    if not lines:
        lines = said = [unmet_conditions(view), *warnings(kubectl, name)]
    return lines + [f"What to do: {advice}" for advice in advise("\n".join(said), "\n".join(logged))]


def advise(said, logged):
    """What to do about what the cluster said and the containers logged."""
    image = [advice for pattern, advice in IMAGE_ADVICE.items() if re.search(pattern, said)][:1]
    others = [advice for pattern, advice in ADVICE.items() if re.search(pattern, said)]
    log = [advice for pattern, advice in LOG_ADVICE.items() if re.search(pattern, logged)]
    crashes = re.search("CrashLoopBackOff|Back-off restarting", said) and not (image or log or "OOMKilled" in said)
    return image + ([CRASH_ADVICE] if crashes else []) + others + log


def is_over(event, pod):
    """Whether an event is about something that the pod has left behind: it had to wait for room, and got it."""
    scheduled = [found for found in pod.get("status", {}).get("conditions", []) if found["type"] == "PodScheduled"]
    return event.startswith("FailedScheduling") and all(found["status"] == "True" for found in scheduled)


def pods_of(view, spec):
    """The pods of the version that is being deployed, not those that serve meanwhile."""
    wanted = {signature(part) for part in spec.values()}
    newest = {view.newest(name) for name in spec}
    return [
        pod for pod in view.pods if signature(pod) in wanted and (not view.on_knative or revision_of(pod) in newest)
    ]


def revision_of(pod):
    return pod["metadata"].get("labels", {}).get("serving.knative.dev/revision")


def is_ready(pod):
    return any(
        found["type"] == "Ready" and found["status"] == "True" for found in pod.get("status", {}).get("conditions", [])
    )


def is_stuck(pods):
    """Whether a pod is in a state that it seldom leaves, or its container crashes again and again.

    A container that crashes after some seconds is running whenever one looks at the wrong moment, and on Knative ready as
    well: its readiness probe is the queue-proxy's.
    """
    return any(kind in STUCK for pod in pods for _, kind, _ in troubles(pod)) or any(
        container.get("restartCount", 0) >= 2 for pod in pods if not is_ready(pod) for container in containers(pod)
    )


def containers(pod):
    status = pod.get("status", {})
    return status.get("initContainerStatuses", []) + status.get("containerStatuses", [])


def troubles(pod):
    """What keeps a pod from being ready, as (container or None, kind, message)."""
    found = []
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            found.append((None, condition.get("reason", ""), condition.get("message", "")))
    for container in containers(pod):
        waiting, ended = (container.get("state", {}).get(state) for state in ("waiting", "terminated"))
        before = container.get("lastState", {}).get("terminated") or {}
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            message = " ".join(filter(None, (waiting.get("message"), ending(before))))
            found.append((container["name"], waiting.get("reason", ""), message))
        elif ended and ended.get("exitCode"):
            found.append((container["name"], ended.get("reason", ""), ending(ended)))
        elif before.get("exitCode") and not is_ready(pod) and container["state"].get("running"):
            found.append((container["name"], "restarted", ending(before)))
    return found


def ending(terminated):
    """How a container ended: OOMKilled stands here, while it is in CrashLoopBackOff.

    The message may be the whole of its log, which Knative asks for: the last line says why.
    """
    if not terminated:
        return ""
    last_line = (terminated.get("message") or "").strip().rpartition("\n")[2]
    words = (terminated.get("reason"), f"exit status {terminated.get('exitCode')}", last_line)
    return "(" + ", ".join(word for word in words if word) + ")"


def last_log_lines(kubectl, pod, container, count=10):
    for previous in ([], ["--previous"]) if container else ():
        try:
            text = kubectl.run("logs", pod, "-n", kubectl.namespace, "-c", container, f"--tail={count}", *previous)
        except KubectlFailed:  # the container never started
            continue
        if text.strip() and not text.startswith("unable to retrieve container logs"):
            return text.rstrip().splitlines()
    return []


def warnings(kubectl, name):
    """The last events of kind Warning about a pod or the service, without those of two controllers that collided."""
    events = kubectl.get("events", "--field-selector", f"involvedObject.name={name},type=Warning")["items"]
    lines = [f"{event['reason']}: {event['message'].strip()}".splitlines()[0] for event in events]
    lines = [line for line in lines if "the object has been modified" not in line]
    return list(dict.fromkeys(lines))[-3:]


def reason(condition):
    """First line of what a condition says of itself, maybe nothing."""
    return (condition.get("message") or condition.get("reason") or "").strip().partition("\n")[0]


def refusal(view):
    """Why KServe makes nothing of the InferenceService, or None: quotas, webhooks, a missing runtime."""
    for component in view.components:
        condition = view.condition(f"{component.capitalize()}Ready")
        if condition["status"] == "False" and condition.get("reason") == "ReconcileFailed":
            return reason(condition)
    state = view.status.get("modelStatus", {})
    if state.get("transitionStatus") == "InvalidSpec":
        failure = state.get("lastFailureInfo", {})
        return f"{failure.get('reason', '')}: {failure.get('message', '')}"
    return None


def unmet_conditions(view):
    unmet = [
        f"{found['type']}: {reason(found)}"
        for found in view.status.get("conditions", [])
        if found["status"] != "True" and found["type"] not in ("Ready", "Stopped")
    ]
    refused = refusal(view)
    if refused and refused not in "; ".join(unmet):
        unmet.append(refused)
    return "; ".join(unmet) or "KServe says nothing about it; is its controller running?"
