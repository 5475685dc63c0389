"""Waiting for the cluster, always with an end: until a version is ready, and until it has its requests."""

import logging
import time

from deployed_service import in_words
from diagnosis import explain, is_ready, is_stuck, reason, unmet_conditions
from failure import Failure
from manifests import COMPONENTS, signature

STUCK_SECONDS = 30

log = logging.getLogger(__name__)


def poll(timeout):
    """Yield the seconds gone, soon at first and then every two seconds, until `timeout` is over."""
    start, pause = time.monotonic(), 0.25
    while (gone := time.monotonic() - start) < timeout:
        yield gone
        time.sleep(pause)
        pause = min(2, pause * 1.5)


def wait_until_ready(deployed, spec, timeout):
    """Tell what changes until all is ready. Raises Failure, the reasons logged, when it is stuck or too late."""
    told, stuck_since = {}, None
    for gone in poll(timeout):
        view = deployed.look()
        states = readiness(view, spec)
        for part, state in states.items():
            if told.get(part) != state:
                log.info("%s: %s", part, state)
        if set(states.values()) == {"ready"}:
            return
        told = states
        stuck = any(state.startswith("failed") for state in states.values()) or is_stuck(view, spec)
        stuck_since = (gone if stuck_since is None else stuck_since) if stuck else None
        if stuck and gone - stuck_since >= STUCK_SECONDS:
            break
    for line in explain(deployed.kubectl, deployed.name, view, spec):
        log.error("%s", line)
    shares = view.traffic()
    serving = f"; serving meanwhile: {in_words(shares)}" if view.on_knative and shares else ""
    raise Failure(f"{deployed.name} is not ready after {gone:.0f} s, see the reasons above{serving}")


def readiness(view, spec):
    """State of predictor, transformer and ingress in words: ready, or what is missing."""
    states = {}
    for name in COMPONENTS:
        condition, status = view.condition(f"{name.capitalize()}Ready"), view.component(name)
        if view.on_knative:
            created = status.get("latestCreatedRevision")
            current = signature(view.revisions.get(created)) == signature(spec[name])
            ready = current and status.get("latestReadyRevision") == created
        else:
            current, ready = True, any(is_ready(pod) for pod in view.pods if signature(pod) == signature(spec[name]))
        if ready and condition["status"] == "True":
            states[name] = "ready"
        elif current and condition["status"] == "False":
            states[name] = f"failed, {reason(condition)}"
        else:
            states[name] = ", ".join(filter(None, ("starting", reason(condition) if current else "")))
    ingress = view.condition("IngressReady")
    done = ingress["status"] == view.condition("Ready")["status"] == "True"
    return {**states, "ingress": "ready" if done else ", ".join(filter(None, ("waiting", reason(ingress))))}


def wait_for_traffic(deployed, version, share, timeout):
    """Wait until a version gets `share` percent of the requests. Returns a View."""
    for _ in poll(timeout):
        view = deployed.look()
        if view.traffic().get(version) == share and view.condition("Ready")["status"] == "True":
            return view
    raise Failure(
        f"version {version} is ready, but does not get {share} % of the requests after {timeout} s: "
        f"{in_words(view.traffic())}; {unmet_conditions(view)}"
    )
