"""Wait for the cluster, always with a timeout: until a version is ready, and until it gets its requests."""

import logging
from typing import NoReturn

from deployment.deployed_service import DeployedService, ServiceState, condition_of, describe_traffic
from deployment.diagnosis import (
    explain,
    is_ready,
    is_stuck,
    is_unschedulable,
    pods_of,
    reason,
    rejection,
    revision_of,
    troubles,
    unmet_conditions,
)
from deployment.manifests import KubernetesObject, signature
from deployment.polling import GracePeriod, poll
from deployment.scaling import idle_revisions, scale_to_zero
from failure import Failure

STUCK_SECONDS = 30
# A revision is scaled to zero after 36 s (Knative's shortest window, and its grace period of 30 s), and a pod takes up to
# 70 s to end, in which it keeps its room. A predictor gets requests until its transformer has ended: twice as long.
NO_ROOM_SECONDS = 240

log = logging.getLogger(__name__)


class NotReady(Failure):
    """A version did not become ready; the reasons are in the log."""


def wait_for_predictor(deployed: DeployedService, spec: KubernetesObject, timeout: float) -> ServiceState:
    """Wait until Knative has a revision of the predictor, which KServe's Standard mode has not. Returns the state then.

    Raises:
        NotReady: KServe rejects the predictor; the reasons are in the log.
        Replaced: somebody else applied another version.
        Failure: it takes too long.
    """
    grace = GracePeriod(STUCK_SECONDS)
    for elapsed in poll(timeout):
        state = deployed.fetch()
        state.check_not_replaced(spec)
        name = state.newest("predictor")
        if state.on_knative and signature(state.revisions.get(name)) == signature(spec["predictor"]):
            return state
        if state.status.get("deploymentMode") and not state.on_knative:
            return state
        if grace.is_over(bool(rejection(state)), elapsed):
            give_up(deployed, state, [], elapsed)
    raise Failure(f"KServe created no predictor of {deployed.name} in {timeout} s: {unmet_conditions(state)}")


def wait_until_ready(deployed: DeployedService, spec: KubernetesObject, timeout: float) -> ServiceState:
    """Log each change until all parts are ready. Without room for the pods, scale the versions without requests to zero.

    Returns:
        The state in which they are.

    Raises:
        NotReady: a part is stuck, or it takes too long; the reasons are in the log.
        Replaced: somebody else applied another version.
    """
    logged: dict[str, str] = {}
    stuck, without_room = GracePeriod(STUCK_SECONDS), GracePeriod(NO_ROOM_SECONDS)
    for elapsed in poll(timeout):
        state = deployed.fetch()
        state.check_not_replaced(spec)
        parts, pods = readiness(state, spec), pods_of(state, spec)
        for part, progress in parts.items():
            if logged.get(part) != progress:
                log.info("%s: %s", part, progress)
        logged = parts
        if set(parts.values()) == {"ready"}:
            return state
        no_room = any(is_unschedulable(pod) for pod in pods)
        if no_room:
            make_room(deployed, state, spec)
        failed = is_stuck(pods) or (not no_room and any(progress.startswith("failed") for progress in parts.values()))
        if stuck.is_over(failed, elapsed) or without_room.is_over(no_room, elapsed):
            break
    give_up(deployed, state, pods, elapsed)


def make_room(deployed: DeployedService, state: ServiceState, spec: KubernetesObject) -> None:
    """Scale the versions that get no requests to zero: they only make a rollback faster."""
    idle = idle_revisions(state, spec)
    if idle:
        versions = sorted({state.version_of(revision) for revision in idle})
        log.warning("There is no room for the new version: %s, which gets no requests, makes way", ", ".join(versions))
        scale_to_zero(deployed, state, idle)


def wait_for_new_pods(deployed: DeployedService, revisions: list[str], old: set[str], timeout: float) -> None:
    """Wait until each revision has a ready pod that is not among the old ones.

    Args:
        old: names of pods.

    Raises:
        NotReady: they are stuck, or it takes too long; the reasons are in the log.
    """
    stuck, without_room = GracePeriod(STUCK_SECONDS), GracePeriod(NO_ROOM_SECONDS)
    for elapsed in poll(timeout):
        state = deployed.fetch()
        pods = [pod for pod in state.pods if revision_of(pod) in revisions and pod["metadata"]["name"] not in old]
        if {revision_of(pod) for pod in pods if is_ready(pod)} == set(revisions):
            return
        no_room = any(is_unschedulable(pod) for pod in pods)
        if stuck.is_over(is_stuck(pods), elapsed) or without_room.is_over(no_room, elapsed):
            break
    give_up(deployed, state, pods, elapsed)


def give_up(deployed: DeployedService, state: ServiceState, pods: list[KubernetesObject], elapsed: float) -> NoReturn:
    for line in explain(deployed.kubectl, deployed.name, state, pods):
        log.error("%s", line)
    raise NotReady(f"{deployed.name} is not ready after {elapsed:.0f} s, see the reasons above")


def readiness(state: ServiceState, spec: KubernetesObject) -> dict[str, str]:
    """Progress of each component and of the ingress: "ready", or what is missing."""
    parts = {name: component_readiness(state, name, spec[name]) for name in spec}
    ingress = state.condition("IngressReady")
    done = ingress["status"] == state.condition("Ready")["status"] == "True"
    return {**parts, "ingress": "ready" if done else ", ".join(filter(None, ("waiting", reason(ingress))))}


def component_readiness(state: ServiceState, name: str, part: KubernetesObject) -> str:
    """Progress of one component: "ready", or "starting" or "failed" with the reason."""
    condition, status = state.condition(f"{name.capitalize()}Ready"), state.component(name)
    rejected = reason(condition) if condition.get("reason") == "ReconcileFailed" else None
    if state.on_knative:
        created = status.get("latestCreatedRevision", "")
        current = signature(state.revisions.get(created)) == signature(part)
        ready = current and status.get("latestReadyRevision") == created
        # The component's own condition may still be about the previous revision, or about a route without any.
        own = condition_of(state.revisions.get(created), "Ready")
        pods = pods_of(state, {name: part})
        if own["status"] == "False" and pods and not any(troubles(pod) for pod in pods):
            own = condition = {"status": "Unknown"}  # until the pods are ready, both still report a lack of room
    else:
        own = condition
        current, ready = True, any(is_ready(pod) for pod in state.pods if signature(pod) == signature(part))
    if ready and condition["status"] == "True":
        return "ready"
    if rejected or (current and own["status"] == "False"):
        return f"failed, {rejected or reason(own)}"
    return ", ".join(filter(None, ("starting", reason(condition) if current else "")))


def wait_for_share(deployed: DeployedService, spec: KubernetesObject, share: int, timeout: float) -> ServiceState:
    """Wait until the newest version gets `share` percent of the requests. Raises Failure, Replaced."""
    for _ in poll(timeout):
        state = deployed.fetch()
        state.check_not_replaced(spec)
        got = state.shares(state.entry).get(state.newest(), 0) if state.on_knative else 100
        if got == share and state.condition("Ready")["status"] == "True":
            return state
    raise Failure(
        f"{deployed.name} is ready, but its newest version does not get {share} % of the requests after {timeout} s: "
        f"{describe_traffic(state.traffic())}; {unmet_conditions(state)}"
    )


def wait_for_standby(deployed: DeployedService, revision: str, timeout: float) -> str:
    """Wait until the Route to the standby version resolves to a revision. Returns its host."""
    for _ in poll(timeout):
        status = deployed.fetch().standby_status
        targets = {target["revisionName"] for target in status.get("traffic", []) if target.get("percent")}
        ready = {"type": "Ready", "status": "True"}
        if targets == {revision} and any(ready.items() <= found.items() for found in status.get("conditions", [])):
            return status["url"].split("://")[1]
    raise Failure(f"the new version of {deployed.name} is ready, but its own route is not after {timeout} s")
