"""Wait for the cluster, always with a timeout: until a version is ready, and until it gets its requests."""

import logging
from typing import NoReturn

from deployment.deployed_service import DeployedService, ServiceState, condition_of, describe_traffic
from deployment.diagnosis import explain, is_ready, is_stuck, pods_of, reason, rejection, troubles, unmet_conditions
from deployment.manifests import KubernetesObject, signature
from deployment.polling import GracePeriod, poll
from failure import Failure

STUCK_SECONDS = 30

log = logging.getLogger(__name__)


class NotReady(Failure):
    """A version did not become ready; the reasons are in the log."""


def wait_for_predictor_revision(deployed: DeployedService, spec: KubernetesObject, timeout: float) -> str | None:
    """Wait until Knative has a revision of the predictor. Returns its name, or None in KServe's Standard mode.

    Raises:
        NotReady: KServe rejects the predictor; the reasons are in the log.
        Failure: it takes too long.
    """
    grace = GracePeriod(STUCK_SECONDS)
    for elapsed in poll(timeout):
        state = deployed.fetch()
        name = state.newest("predictor")
        if state.on_knative and signature(state.revisions.get(name)) == signature(spec["predictor"]):
            return name
        if state.status.get("deploymentMode") and not state.on_knative:
            return None
        if grace.is_over(bool(rejection(state)), elapsed):
            give_up(deployed, state, [], elapsed)
    raise Failure(f"KServe created no predictor of {deployed.name} in {timeout} s: {unmet_conditions(state)}")


def wait_until_ready(deployed: DeployedService, spec: KubernetesObject, timeout: float) -> None:
    """Log each change until all parts are ready.

    Raises:
        NotReady: a part is stuck, or it takes too long; the reasons are in the log.
    """
    logged: dict[str, str] = {}
    grace = GracePeriod(STUCK_SECONDS)
    for elapsed in poll(timeout):
        state = deployed.fetch()
        parts, pods = readiness(state, spec), pods_of(state, spec)
        for part, progress in parts.items():
            if logged.get(part) != progress:
                log.info("%s: %s", part, progress)
        logged = parts
        if set(parts.values()) == {"ready"}:
            return
        failed = any(progress.startswith("failed") for progress in parts.values())
        if grace.is_over(failed or is_stuck(pods), elapsed):
            break
    give_up(deployed, state, pods, elapsed)


def give_up(deployed: DeployedService, state: ServiceState, pods: list[KubernetesObject], elapsed: float) -> NoReturn:
    for line in explain(deployed.kubectl, deployed.name, state, pods):
        log.error("%s", line)
    shares = state.traffic()
    serving = f"; serving meanwhile: {describe_traffic(shares)}" if state.on_knative and shares else ""
    raise NotReady(f"{deployed.name} is not ready after {elapsed:.0f} s, see the reasons above{serving}")


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


def wait_for_share(deployed: DeployedService, share: int, timeout: float) -> ServiceState:
    """Wait until the newest version gets `share` percent of the requests."""
    for _ in poll(timeout):
        state = deployed.fetch()
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
