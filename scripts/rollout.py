"""Rolling out a version, and returning to the one before.

A transformer and a model mean something only together, but KServe rolls the two out one by one: in a rollout, in a
canary and after a deploy that failed, an old transformer would feed a new model and get cluster numbers that mean
nothing. Each transformer is therefore pinned to the predictor revision of its own version (pin_transformer).
"""

from deployed_service import in_words
from diagnosis import unmet_conditions
from failure import Failure
from manifests import COMPONENTS, VERSION_LABEL, pin_transformer, signature
from waiting import poll, wait_for_traffic, wait_until_ready


def roll_out(deployed, before, service, canary, wait, timeout):
    """Apply the predictor, then the transformer pinned to it, and wait. Returns a View, None where it need not wait.

    The requests stay with the version that has them until the new pair is ready. Where a canary runs or was rolled
    back, the newest revisions get 0 percent meanwhile: without it KServe would give them everything.
    """
    held = before.canary is not None
    starting = {"canaryTrafficPercent": 0 if held else canary} if held or canary else {}
    spec = service["spec"]
    kept = {name: part for name, part in before.spec.items() if name == "transformer"}
    deployed.kubectl.apply({**service, "spec": {**kept, "predictor": {**spec["predictor"], **starting}}})
    revision = predictor_revision(deployed, signature(spec["predictor"]), timeout)
    if revision:
        pin_transformer(service, revision)
    deployed.kubectl.apply({**service, "spec": {name: {**spec[name], **starting} for name in COMPONENTS}})
    if not wait and not held:
        return None
    wait_until_ready(deployed, spec, timeout)
    if held:
        deployed.set_canary(canary)
    return wait_for_traffic(deployed, spec["transformer"]["labels"][VERSION_LABEL], canary or 100, timeout)


def predictor_revision(deployed, wanted, timeout):
    """Name of the Knative revision made of the predictor, or None in KServe's Standard mode."""
    for _ in poll(timeout):
        view = deployed.look()
        name = view.component("predictor").get("latestCreatedRevision")
        if view.on_knative and signature(view.revisions.get(name)) == wanted:
            return name
        if view.status.get("deploymentMode") and not view.on_knative:
            return None
    raise Failure(f"KServe made no predictor of {deployed.name} in {timeout} s: {unmet_conditions(view)}")


def return_to_previous(deployed, timeout):
    """Take all requests from the newest version. Returns a View.

    canaryTrafficPercent 0 is KServe's way: from a canary it returns to the version that had all requests, and from
    a finished rollout to the one before (PropagateStatus in KServe's inference_service_status.go).
    """
    deployed.set_canary(0)
    for _ in poll(timeout):
        view = deployed.look()
        transformer = view.component("transformer")
        served = [target["revisionName"] for target in transformer.get("traffic", []) if target.get("percent")]
        if served and transformer["latestCreatedRevision"] not in served:
            return view
    raise Failure(f"the requests still go to {in_words(view.traffic())} after {timeout} s: {unmet_conditions(view)}")
