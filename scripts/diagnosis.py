"""Why a service is not ready, and what to do about it."""

import re

from kubectl import KubectlFailed
from manifests import COMPONENTS, signature

# Pods in these states seldom recover, but a registry or store may hiccup: they count after a while.
STUCK = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CrashLoopBackOff"}
ADVICE = {
    r"ImagePull|ErrImage|InvalidImageName|Failed to pull image|Unable to fetch image": "the image cannot be had: check its name, push it, or load it into the cluster's nodes",
    r"Insufficient (cpu|memory)": "no node has room: lower --cpu-request or --memory-request, or remove other services",
    r"OOMKilled": "it ran out of memory: raise --memory-limit",
    r"CreateContainerConfigError": "the image must name a numeric user other than root (USER 1000)",
    r"403|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied": "the store refuses the service's keys: run this again to renew them",
    r"EndpointConnectionError|Could not connect|Connection refused|Name or service not known": "the store cannot be reached from the cluster: check --minio-endpoint-cluster",
    r"exceeded quota": "the namespace's quota is used up: lower the requests or raise the quota",
}


def explain(kubectl, name, view, spec):
    """Why the service is not ready, line by line: from its pods, or else from KServe's conditions and events."""
    lines = []
    for pod in pods_of(view, spec):
        pod_name = pod["metadata"]["name"]
        for container, kind, message in troubles(pod):
            lines.append(f"pod {pod_name}{f', container {container}' if container else ''}: {kind} {message}".strip())
            lines += [f"  | {line}" for line in last_log_lines(kubectl, pod_name, container)]
        if not is_ready(pod):
            lines += [f"pod {pod_name}: {line}" for line in warnings(kubectl, pod_name)]
    lines = lines or [unmet_conditions(view), *warnings(kubectl, name)]
    text = "\n".join(lines)
    return lines + [f"What to do: {advice}" for pattern, advice in ADVICE.items() if re.search(pattern, text)]


def pods_of(view, spec):
    """The pods of the version that is being deployed, not those that serve meanwhile."""
    wanted = {signature(spec[name]) for name in COMPONENTS}
    newest = {view.component(name).get("latestCreatedRevision") for name in COMPONENTS}
    return [
        pod
        for pod in view.pods
        if signature(pod) in wanted
        and (not view.on_knative or pod["metadata"]["labels"].get("serving.knative.dev/revision") in newest)
    ]


def is_ready(pod):
    return any(
        found["type"] == "Ready" and found["status"] == "True" for found in pod.get("status", {}).get("conditions", [])
    )


def is_stuck(view, spec):
    """Whether a pod is in a state that it seldom leaves."""
    return any(kind in STUCK for pod in pods_of(view, spec) for _, kind, _ in troubles(pod))


def troubles(pod):
    """What keeps a pod from being ready, as (container or None, kind, message)."""
    status, found = pod.get("status", {}), []
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            found.append((None, condition.get("reason", ""), condition.get("message", "")))
    for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
        waiting, ended = (container.get("state", {}).get(state) for state in ("waiting", "terminated"))
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            found.append((container["name"], waiting.get("reason", ""), waiting.get("message", "")))
        elif ended and ended.get("exitCode"):
            found.append((container["name"], ended.get("reason", ""), f"exit status {ended['exitCode']}"))
    return found


def last_log_lines(kubectl, pod, container, count=10):
    for previous in ([], ["--previous"]) if container else ():
        try:
            text = kubectl.run("logs", pod, "-n", kubectl.namespace, "-c", container, f"--tail={count}", *previous)
        except KubectlFailed:  # the container never started
            continue
        if text.strip():
            return text.rstrip().splitlines()
    return []


def warnings(kubectl, name):
    """The last events of kind Warning about a pod or the service."""
    events = kubectl.get("events", "--field-selector", f"involvedObject.name={name},type=Warning")["items"]
    lines = [f"{event['reason']}: {event['message'].strip()}".splitlines()[0] for event in events]
    return list(dict.fromkeys(lines))[-3:]


def reason(condition):
    """First line of what a condition says of itself, maybe nothing."""
    return (condition.get("message") or condition.get("reason") or "").strip().partition("\n")[0]


def unmet_conditions(view):
    unmet = [
        f"{found['type']}: {reason(found)}"
        for found in view.status.get("conditions", [])
        if found["status"] != "True" and found["type"] not in ("Ready", "Stopped")
    ]
    return "; ".join(unmet) or "KServe says nothing about it; is its controller running?"
