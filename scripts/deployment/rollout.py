"""Rolling out a version, and returning to the one before.

A transformer and a model mean something only together, but KServe rolls the two out one by one, and Knative gives all
requests to a component's revision as soon as it is ready. So

- each transformer is pinned to the predictor revision of its own version (pin_transformer),
- a new version gets 0 percent of the requests until both components are ready and it has answered right itself,
- the version before keeps its pods, so that a rollback waits for nothing (standby_route),
- a version that failed gives its pods back.
"""

import logging
from datetime import UTC, datetime

from deployment.deployed_service import condition_of, in_words
from deployment.diagnosis import refusal, unmet_conditions
from deployment.gateway import WrongAnswer
from deployment.manifests import (
    ATTEMPT_ANNOTATION,
    MIN_SCALE_ANNOTATION,
    annotation,
    inference_service,
    pin_transformer,
    signature,
)
from deployment.waiting import (
    NotReady,
    poll,
    wait_for_predictor_revision,
    wait_for_share,
    wait_for_standby,
    wait_until_ready,
)
from failure import Failure

# With these Knative takes the pods of a revision that was never ready. The deadline changes the pods, so each is made anew
# once, but without it they would stay for ten minutes. A revision without a ready pod has no figures once nobody asks it,
# and is left as it was, unless the activator's figures are said to be all there are (StableAndPanicConcurrency in
# knative/serving, pkg/autoscaler/metrics/collector.go). 6 s is the shortest time that the last request may count.
GIVEN_UP = {
    "serving.knative.dev/progress-deadline": "1s",
    "autoscaling.knative.dev/target-burst-capacity": "-1",
    "autoscaling.knative.dev/window": "6s",
}

log = logging.getLogger(__name__)


def roll_out(deployed, before, service, canary, wait, timeout, check):
    """Give a version its requests once it has proved itself. Returns a ServiceState, None where it shall not wait.

    Where nothing serves yet, and in KServe's Standard mode, there is nothing to lose: it is not held back.

    Args:
        before: the ServiceState before.
        service: the InferenceService to apply.
        canary: percent of the requests, or None for all.
        check: called with the host of the new version's own Route; raises WrongAnswer.
    """
    served, spec = before.serving() if before.on_knative else [], service["spec"]
    if served and not has_all_requests(before, spec) and serves_alone(before, spec):
        log.info("It serves already; %s, which is newer, gets no requests", before.newest())
        return before
    held = bool(served) and not has_all_requests(before, spec)
    try:
        apply(deployed, before, service, {"canaryTrafficPercent": 0} if held else {}, timeout)
        if not wait:
            return None
        if held:
            keep_serving(deployed, before, spec, timeout)
        wait_until_ready(deployed, spec, timeout)
        if not held:
            return wait_for_share(deployed, 100, timeout)
        newest = deployed.fetch()
        deployed.set_standby(newest.service, [newest.newest(name) for name in reversed(newest.components)])
        check(wait_for_standby(deployed, newest.newest(), timeout))
    except (NotReady, WrongAnswer):
        withdraw(deployed, spec, before)
        raise
    return give_share(deployed, canary, served, timeout)


def next_attempt(view, settings, content):
    """The content, so marked that new pods come of it where those of the last attempt were taken out."""

    def as_tried(name):
        revision = view.revisions.get(name)
        tried = content._replace(attempt=annotation(revision, ATTEMPT_ANNOTATION))
        same = signature(revision) == signature(inference_service(settings, tried)["spec"]["predictor"])
        return tried if same else None

    # A predictor that is ready has its own requests, though its transformer failed and nothing serves.
    if view.shares(view.front) and (serving := as_tried(view.serving()[-1])):
        return serving
    tried = as_tried(view.newest("predictor"))
    if not tried:
        return content
    components = [view.revisions.get(view.newest(name)) for name in view.components]
    if any(annotation(revision, MIN_SCALE_ANNOTATION) == "0" for revision in components):  # withdrawn
        return content._replace(attempt=datetime.now(UTC).isoformat(timespec="seconds"))
    return tried


def has_all_requests(view, spec):
    """Whether this very content serves alone already."""
    newest = view.newest()
    return view.shares(view.front) == {newest: 100} and signature(view.revisions.get(newest)) == signature(
        spec[view.front]
    )


def serves_alone(view, spec):
    """Whether this very content has all requests, though there is a newer one: that failed, or was rolled back."""
    return all(
        len(view.shares(name)) == 1
        and all(signature(view.revisions.get(revision)) == signature(spec[name]) for revision in view.shares(name))
        for name in spec
    )


def apply(deployed, before, service, held, timeout):
    """Apply the predictor, and then the transformer, which is pinned to the predictor's revision."""
    spec = service["spec"]
    if "transformer" in spec:
        kept = {name: part for name, part in before.spec.items() if name == "transformer"}
        deployed.kubectl.apply({**service, "spec": {**kept, "predictor": {**spec["predictor"], **held}}})
        revision = wait_for_predictor_revision(deployed, spec, timeout)
        if revision:
            pin_transformer(service, revision)
    deployed.kubectl.apply({**service, "spec": {name: {**part, **held} for name, part in spec.items()}})


def keep_serving(deployed, before, spec, timeout):
    """Have the requests stay where they were, should KServe take the 0 percent for a rollback.

    It does so when Knative's route has them before Knative has made the new revision, and then returns to the version
    before the one that serves (PropagateStatus in KServe's inference_service_status.go).
    """
    for _ in poll(timeout):
        view = deployed.fetch()
        made = all(signature(view.revisions.get(view.newest(name))) == signature(spec[name]) for name in spec)
        if made or refusal(view):
            break
    kept = all(rolled_out(view, name) == rolled_out(before, name) for name in spec)
    starting = all(view.component(name).get("latestReadyRevision") != view.newest(name) for name in spec)
    if not kept and starting:
        log.info("KServe rolled back instead of holding the new version: once more")
        deployed.set_canary(None, spec)  # to the newest that is ready, which is the one that served
        for _ in poll(timeout):
            view = deployed.fetch()
            if all(rolled_out(view, name) == rolled_out(before, name) for name in spec):
                break
        deployed.set_canary(0, spec)


def rolled_out(view, component):
    return view.component(component).get("latestRolledoutRevision")


def give_share(deployed, percent, served, timeout):
    """Give the newest version its share of the requests, or all with None. Returns a ServiceState.

    Args:
        served: the revisions that had the requests; without any they stand by.
    """
    deployed.set_canary(percent, deployed.fetch().components)
    view = wait_for_share(deployed, percent or 100, timeout)
    if percent is None:
        deployed.set_standby(view.service, served)
    return view


def withdraw(deployed, spec, before):
    """Let a version that failed give its pods back, and whoever stood by before do so again.

    Knative takes changes of its scaling annotations from a revision itself (reconcilePA in knative/serving,
    pkg/reconciler/revision/reconcile_resources.go). Without them its pods would hold their memory for ten minutes, and
    the requests that queue for them would make more.
    """
    view = deployed.fetch()
    # A predictor has its requests from a transformer: where that serves nobody, it does not either.
    used = {revision for name in view.components for revision in view.shares(name) if view.shares(view.front)}
    failed = [
        view.newest(name) for name in spec if signature(view.revisions.get(view.newest(name))) == signature(spec[name])
    ]
    failed = [revision for revision in failed if revision not in used]
    if not failed:
        return
    deployed.annotate_revisions(failed, {MIN_SCALE_ANNOTATION: "0"})
    never_ready = [name for name in failed if condition_of(view.revisions[name], "Ready")["status"] != "True"]
    if never_ready:
        deployed.annotate_revisions(never_ready, GIVEN_UP)
    _, stood_by = before.standby()
    if stood_by:
        deployed.set_standby(view.service, stood_by)
    log.info("Taken out of the cluster: %s", ", ".join(failed))


def return_to_previous(deployed, timeout):
    """Take all requests from the newest version. Returns a ServiceState.

    canaryTrafficPercent 0 is KServe's way: from a canary it returns to the version that had all requests, and from
    a finished rollout to the one before (PropagateStatus in KServe's inference_service_status.go).
    """
    deployed.set_canary(0, deployed.fetch().components)
    for _ in poll(timeout):
        view = deployed.fetch()
        shares = view.shares(view.front)
        if shares and view.newest() not in shares:
            return view
    raise Failure(f"the requests still go to {in_words(view.traffic())} after {timeout} s: {unmet_conditions(view)}")
