"""Waiting for the cluster, always with an end: until a version is ready, and until it has its requests."""

import logging
import time

from deployment.deployed_service import condition_of, in_words
from deployment.diagnosis import explain, is_ready, is_stuck, pods_of, reason, refusal, troubles, unmet_conditions
from deployment.manifests import signature
from failure import Failure

STUCK_SECONDS = 30

log = logging.getLogger(__name__)


class NotReady(Failure):
    """A version did not become ready; the reasons are in the log."""


def poll(timeout):
    """Yield the seconds gone, soon at first and then every two seconds, until `timeout` is over."""
    start, pause = time.monotonic(), 0.25
    while (gone := time.monotonic() - start) < timeout:
        yield gone
        time.sleep(pause)
        pause = min(2, pause * 1.5)


class GracePeriod:
    """How long something that seldom recovers may last."""

    def __init__(self):
        self.since = None

    def is_over(self, stuck, gone):
        """Whether it has been stuck for too long, `gone` seconds after the start."""
        self.since = (gone if self.since is None else self.since) if stuck else None
        return stuck and gone - self.since >= STUCK_SECONDS


def wait_for_predictor_revision(deployed, spec, timeout):
    """Name of the Knative revision made of the predictor, or None in KServe's Standard mode.

    Raises NotReady, the reasons logged, when KServe refuses to make it, and Failure when it takes too long.
    """
    patience = GracePeriod()
    for gone in poll(timeout):
        view = deployed.fetch()
        name = view.newest("predictor")
        if view.on_knative and signature(view.revisions.get(name)) == signature(spec["predictor"]):
            return name
        if view.status.get("deploymentMode") and not view.on_knative:
            return None
        if patience.is_over(refusal(view), gone):
            give_up(deployed, view, [], gone)
    raise Failure(f"KServe made no predictor of {deployed.name} in {timeout} s: {unmet_conditions(view)}")


def wait_until_ready(deployed, spec, timeout):
    """Tell what changes until all is ready. Raises NotReady, the reasons logged, when it is stuck or too late."""
    told, patience = {}, GracePeriod()
    for gone in poll(timeout):
        view = deployed.fetch()
        states, pods = readiness(view, spec), pods_of(view, spec)
        for part, state in states.items():
            if told.get(part) != state:
                log.info("%s: %s", part, state)
        told = states
        if set(states.values()) == {"ready"}:
            return
        failed = any(state.startswith("failed") for state in states.values())
        if patience.is_over(failed or is_stuck(pods), gone):
            break
    give_up(deployed, view, pods, gone)


def give_up(deployed, view, pods, gone):
    for line in explain(deployed.kubectl, deployed.name, view, pods):
        log.error("%s", line)
    shares = view.traffic()
    serving = f"; serving meanwhile: {in_words(shares)}" if view.on_knative and shares else ""
    raise NotReady(f"{deployed.name} is not ready after {gone:.0f} s, see the reasons above{serving}")


def readiness(view, spec):
    """State of each component and of the ingress in words: ready, or what is missing."""
    states = {}
    for name in spec:
        condition, status = view.condition(f"{name.capitalize()}Ready"), view.component(name)
        refused = reason(condition) if condition.get("reason") == "ReconcileFailed" else None
        if view.on_knative:
            created = status.get("latestCreatedRevision")
            current = signature(view.revisions.get(created)) == signature(spec[name])
            ready = current and status.get("latestReadyRevision") == created
            # The component's own condition may still tell of the revision before, or of a route without any.
            own = condition_of(view.revisions.get(created), "Ready")
            pods = pods_of(view, {name: spec[name]})
            if own["status"] == "False" and pods and not any(troubles(pod) for pod in pods):
                own = condition = {"status": "Unknown"}  # both tell why there was no room until the pods are ready
        else:
            own = condition
            current, ready = True, any(is_ready(pod) for pod in view.pods if signature(pod) == signature(spec[name]))
        if ready and condition["status"] == "True":
            states[name] = "ready"
        elif refused or (current and own["status"] == "False"):
            states[name] = f"failed, {refused or reason(own)}"
        else:
            states[name] = ", ".join(filter(None, ("starting", reason(condition) if current else "")))
    ingress = view.condition("IngressReady")
    done = ingress["status"] == view.condition("Ready")["status"] == "True"
    return {**states, "ingress": "ready" if done else ", ".join(filter(None, ("waiting", reason(ingress))))}


def wait_for_share(deployed, share, timeout):
    """Wait until the newest version gets `share` percent of the requests. Returns a ServiceState."""
    for _ in poll(timeout):
        view = deployed.fetch()
        got = view.shares(view.front).get(view.newest(), 0) if view.on_knative else 100
        if got == share and view.condition("Ready")["status"] == "True":
            return view
    raise Failure(
        f"{deployed.name} is ready, but its newest version does not get {share} % of the requests after {timeout} s: "
        f"{in_words(view.traffic())}; {unmet_conditions(view)}"
    )


def wait_for_standby(deployed, revision, timeout):
    """Wait until the Route of the version that stands by leads to a revision. Returns its host."""
    for _ in poll(timeout):
        status, _ = deployed.fetch().standby()
        leads_to = {target["revisionName"] for target in status.get("traffic", []) if target.get("percent")}
        ready = {"type": "Ready", "status": "True"}
        if leads_to == {revision} and any(ready.items() <= found.items() for found in status.get("conditions", [])):
            return status["url"].split("://")[1]
    raise Failure(f"the new version of {deployed.name} is ready, but got no address of its own in {timeout} s")
