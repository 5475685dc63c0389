"""Compare the room that a new version requests with what the nodes have left."""

import logging
import re
from typing import NamedTuple

from deployment.deployed_service import ServiceState
from deployment.diagnosis import revision_of
from deployment.inventory import Inventory
from deployment.manifests import RECORDER_RESOURCES, KubernetesObject, ServiceSettings, signature
from failure import BadInput

SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

log = logging.getLogger(__name__)


class Room(NamedTuple):
    """What a pod requests, or a node has left."""

    cpu: float  # in cores
    memory: float  # in bytes

    def minus(self, other: "Room") -> "Room":
        return Room(self.cpu - other.cpu, self.memory - other.memory)

    def holds(self, other: "Room") -> bool:
        return self.cpu >= other.cpu - 1e-6 and self.memory >= other.memory

    def __str__(self) -> str:
        return f"{self.cpu * 1000:.0f}m CPU and {self.memory / 2**20:.0f} MiB"


# What Knative and KServe add to each pod by default: queue-sidecar-cpu-request in Knative's config-deployment, and
# cpuRequest and memoryRequest of the storageInitializer in KServe's inferenceservice-config.
QUEUE_PROXY = Room(0.025, 0)
STORAGE_INITIALIZER = Room(0.1, 100 * 2**20)
AGENT = Room(0.1, 100 * 2**20)  # KServe's logger: "agent" in inferenceservice-config


def check_size(inventory: Inventory, settings: ServiceSettings) -> None:
    """Raises BadInput if a pod requests more than any node has."""
    sizes = [room_of(node["status"].get("allocatable", {})) for node in inventory.nodes or [] if is_schedulable(node)]
    pod = new_pods(settings)[0]
    if sizes and not any(size.holds(pod) for size in sizes):
        raise BadInput(
            f"a pod of the new version requests {pod}, more than any node has ({max(sizes)}): lower --cpu-request "
            "or --memory-request"
        )


def log_room(inventory: Inventory, state: ServiceState, settings: ServiceSettings, service: KubernetesObject) -> None:
    """Log whether the pods that a deployment creates fit beside what runs, and what happens if they do not.

    Args:
        inventory: before the deployment. If nodes or pods are not known, nothing is logged.
        state: before the deployment.
        service: the InferenceService to apply. Its pods that run already, from an earlier attempt, are not created again.
    """
    digest = signature(next(iter(service["spec"].values())))
    own = [pod for pod in state.pods if signature(pod) == digest and not is_ending(pod)]
    wanted = new_pods(settings)[len(own) :]
    if not wanted or inventory.nodes is None or inventory.pods is None:
        return
    nodes, pods = [node for node in inventory.nodes if is_schedulable(node)], inventory.pods
    others = [pod for pod in state.pods if pod not in own and not is_ending(pod)]
    idle = [pod for pod in others if revision_of(pod) not in state.used_revisions()]
    idle_uids = {pod["metadata"]["uid"] for pod in idle}
    staying = [pod for pod in pods if not is_ending(pod)]
    used = [pod for pod in staying if pod["metadata"]["uid"] not in idle_uids]
    total = Room(sum(pod.cpu for pod in wanted), sum(pod.memory for pod in wanted))
    if fit(wanted, free_rooms(nodes, pods)):
        log.info("Room: the new pods request %s and fit beside what runs", total)
    elif fit(wanted, left := free_rooms(nodes, staying)):
        log.info("Room: the new pods request %s and fit once pods that are ending have ended, within 70 s", total)
    elif idle and fit(wanted, free_rooms(nodes, used)):
        log.warning(
            "Room: the new pods request %s and do not fit beside what runs: %s, which gets no requests, will make "
            "way, so this takes up to four minutes longer, and a rollback has to start it again",
            *(total, ", ".join(sorted({state.version_of(str(revision_of(pod))) for pod in idle}))),
        )
    else:
        log.warning(
            "Room: the new pods request %s and do not fit beside what runs (left on the nodes: %s). They will wait "
            "for room; to make some, remove other services, or lower --cpu-request or --memory-request",
            *(total, "; ".join(map(str, left))),
        )


def new_pods(settings: ServiceSettings) -> list[Room]:
    """What each pod of a new version requests; the first gets the clients' requests."""
    container = room_of(settings.resources["requests"])
    recording = [room_of(RECORDER_RESOURCES["requests"]), AGENT] if settings.record_requests else []
    if settings.collocate:
        return [pod_room(container, container, *recording)] * settings.min_replicas
    return [pod_room(container, *recording), pod_room(container)] * settings.min_replicas


def pod_room(*containers: Room) -> Room:
    """What a pod requests: its containers together, or its init container if that is more."""
    return Room(
        max(sum(room.cpu for room in (*containers, QUEUE_PROXY)), STORAGE_INITIALIZER.cpu),
        max(sum(room.memory for room in (*containers, QUEUE_PROXY)), STORAGE_INITIALIZER.memory),
    )


def is_ending(pod: KubernetesObject) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_schedulable(node: KubernetesObject) -> bool:
    taints = node.get("spec", {}).get("taints") or []
    reserved = any(taint.get("effect") in ("NoSchedule", "NoExecute") for taint in taints)
    return not reserved and not node.get("spec", {}).get("unschedulable")


def free_rooms(nodes: list[KubernetesObject], pods: list[KubernetesObject]) -> list[Room]:
    """What each node has left beside the pods on it."""
    rooms = []
    for node in nodes:
        room = room_of(node["status"].get("allocatable", {}))
        for pod in pods:
            ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
            if pod["spec"].get("nodeName") == node["metadata"]["name"] and not ended:
                room = room.minus(requested_by(pod))
        rooms.append(room)
    return rooms


def requested_by(pod: KubernetesObject) -> Room:
    """What a pod requests: its containers together, or its largest init container if that is more."""

    def requests(kind: str) -> list[Room]:
        return [room_of(item.get("resources", {}).get("requests") or {}) for item in pod["spec"].get(kind) or []]

    containers, init = requests("containers"), requests("initContainers")
    return Room(
        max([sum(room.cpu for room in containers), *(room.cpu for room in init)]),
        max([sum(room.memory for room in containers), *(room.memory for room in init)]),
    )


def room_of(resources: dict[str, str]) -> Room:
    return Room(quantity(resources.get("cpu", "0")), quantity(resources.get("memory", "0")))


def quantity(text: str) -> float:
    """The number that a Kubernetes quantity such as 100m, 2 or 512Mi stands for."""
    found = re.fullmatch(r"([\d.]+(?:[eE][-+]?\d+)?)([a-zA-Z]*)", str(text))
    return float(found[1]) * SUFFIXES.get(found[2], 1) if found else 0


def fit(pods: list[Room], rooms: list[Room]) -> bool:
    """Whether all pods find a node, each on the first one that has room."""
    left = list(rooms)
    for pod in pods:
        place = next((index for index, room in enumerate(left) if room.holds(pod)), None)
        if place is None:
            return False
        left[place] = left[place].minus(pod)
    return True
