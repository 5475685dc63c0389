"""Roll a version out, and return to the previous one.

A transformer only works with the model of its own training run, but KServe rolls the two components out one by one, and
Knative gives all requests to a component's newest revision as soon as that is ready. Therefore

- each transformer is pinned to the predictor revision of its own version (pin_transformer),
- a new version gets 0 percent of the requests until both components are ready and it has passed a smoke test,
- the previous version keeps its pods, so that a rollback is immediate (standby_route),
- a version that failed is scaled to zero.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from deployment.deployed_service import DeployedService, ServiceState, condition_of, describe_traffic
from deployment.diagnosis import rejection, unmet_conditions
from deployment.gateway import WrongAnswer
from deployment.manifests import (
    ATTEMPT_ANNOTATION,
    MIN_SCALE_ANNOTATION,
    Content,
    KubernetesObject,
    ServiceSettings,
    annotation,
    inference_service,
    pin_transformer,
    signature,
)
from deployment.polling import poll
from deployment.waiting import (
    NotReady,
    wait_for_predictor_revision,
    wait_for_share,
    wait_for_standby,
    wait_until_ready,
)
from failure import Failure

# With these annotations Knative deletes the pods of a revision that was never ready. The deadline changes the pods, so
# each is re-created once, but without it they would stay for ten minutes. A revision without a ready pod has no metrics
# when it gets no requests, and is not scaled, unless the activator's metrics are declared to be complete
# (StableAndPanicConcurrency in knative/serving, pkg/autoscaler/metrics/collector.go). 6 s is the shortest window.
SCALE_TO_ZERO = {
    "serving.knative.dev/progress-deadline": "1s",
    "autoscaling.knative.dev/target-burst-capacity": "-1",
    "autoscaling.knative.dev/window": "6s",
}

log = logging.getLogger(__name__)


def roll_out(
    deployed: DeployedService,
    before: ServiceState,
    service: KubernetesObject,
    canary: int | None,
    wait: bool,
    timeout: float,
    smoke_test: Callable[[str], None],
) -> ServiceState | None:
    """Apply a version, and give it its requests once it has passed the smoke test.

    If nothing serves yet, and in KServe's Standard mode, the version gets its requests at once.

    Args:
        before: the state before the rollout.
        service: the InferenceService to apply.
        canary: percent of the requests, or None for all.
        wait: False to return without waiting.
        timeout: of each wait, in seconds.
        smoke_test: called with the host of the new version's own Route; raises WrongAnswer.

    Returns:
        The state afterwards, or None without waiting.

    Raises:
        NotReady, WrongAnswer: the version failed and is scaled to zero.
        Failure: the cluster failed.
    """
    served, spec = before.serving() if before.on_knative else [], service["spec"]
    if served and not has_all_requests(before, spec) and serves_alone(before, spec):
        log.info("This version serves already; %s, which is newer, gets no requests", before.newest())
        return before
    held = bool(served) and not has_all_requests(before, spec)
    try:
        apply(deployed, before, service, {"canaryTrafficPercent": 0} if held else {}, timeout)
        if not wait:
            return None
        if not held:
            wait_until_ready(deployed, spec, timeout)
            return wait_for_share(deployed, 100, timeout)
        keep_serving(deployed, before, spec, timeout)
        wait_until_ready(deployed, spec, timeout)
        smoke_test(make_newest_the_standby(deployed, timeout))
    except (NotReady, WrongAnswer):
        withdraw(deployed, spec, before)
        raise
    return give_share(deployed, canary, served, timeout)


def make_newest_the_standby(deployed: DeployedService, timeout: float) -> str:
    """Give the newest version an address without giving it the service's requests. Returns its host."""
    state = deployed.fetch()
    if state.service is None:
        raise Failure(f"{deployed.name} was deleted meanwhile")
    deployed.set_standby(state.service, [state.newest(name) for name in reversed(state.components)])
    return wait_for_standby(deployed, state.newest(), timeout)


def next_attempt(state: ServiceState, settings: ServiceSettings, content: Content) -> Content:
    """The content, with the attempt that creates new pods if those of the last attempt were scaled to zero."""

    def as_tried(name: str) -> Content | None:
        revision = state.revisions.get(name)
        tried = content._replace(attempt=annotation(revision, ATTEMPT_ANNOTATION))
        same = signature(revision) == signature(inference_service(settings, tried)["spec"]["predictor"])
        return tried if same else None

    # A predictor may be ready and get requests although its transformer failed and nothing serves.
    if state.shares(state.entry) and (serving := as_tried(state.serving()[-1])):
        return serving
    tried = as_tried(state.newest("predictor"))
    if not tried:
        return content
    components = [state.revisions.get(state.newest(name)) for name in state.components]
    if any(annotation(revision, MIN_SCALE_ANNOTATION) == "0" for revision in components):  # withdrawn
        return content._replace(attempt=datetime.now(UTC).isoformat(timespec="seconds"))
    return tried


def has_all_requests(state: ServiceState, spec: KubernetesObject) -> bool:
    """Whether exactly this content is the newest and gets all requests."""
    newest = state.newest()
    return state.shares(state.entry) == {newest: 100} and signature(state.revisions.get(newest)) == signature(
        spec[state.entry]
    )


def serves_alone(state: ServiceState, spec: KubernetesObject) -> bool:
    """Whether exactly this content gets all requests, also if a newer version failed or was rolled back."""
    return all(
        len(state.shares(name)) == 1
        and all(signature(state.revisions.get(revision)) == signature(spec[name]) for revision in state.shares(name))
        for name in spec
    )


def apply(
    deployed: DeployedService, before: ServiceState, service: KubernetesObject, hold: KubernetesObject, timeout: float
) -> None:
    """Apply the predictor, and then the transformer, pinned to the predictor's revision."""
    spec = service["spec"]
    if "transformer" in spec:
        unchanged = {name: part for name, part in before.spec.items() if name == "transformer"}
        deployed.kubectl.apply({**service, "spec": {**unchanged, "predictor": {**spec["predictor"], **hold}}})
        revision = wait_for_predictor_revision(deployed, spec, timeout)
        if revision:
            pin_transformer(service, revision)
    deployed.kubectl.apply({**service, "spec": {name: {**part, **hold} for name, part in spec.items()}})


def keep_serving(deployed: DeployedService, before: ServiceState, spec: KubernetesObject, timeout: float) -> None:
    """Keep the requests where they were if KServe takes the 0 percent for a rollback.

    It does so when Knative's route gets the 0 percent before Knative has created the new revision, and then returns to
    the version before the one that serves (PropagateStatus in KServe's inference_service_status.go).
    """
    for _ in poll(timeout):
        state = deployed.fetch()
        created = all(signature(state.revisions.get(state.newest(name))) == signature(spec[name]) for name in spec)
        if created or rejection(state):
            break
    kept = all(rolled_out(state, name) == rolled_out(before, name) for name in spec)
    starting = all(state.component(name).get("latestReadyRevision") != state.newest(name) for name in spec)
    if not kept and starting:
        log.info("KServe rolled back instead of holding the new version: trying again")
        deployed.set_canary(None, list(spec))  # to the newest that is ready, which is the one that served
        for _ in poll(timeout):
            state = deployed.fetch()
            if all(rolled_out(state, name) == rolled_out(before, name) for name in spec):
                break
        deployed.set_canary(0, list(spec))


def rolled_out(state: ServiceState, component: str) -> str | None:
    return state.component(component).get("latestRolledoutRevision")


def give_share(deployed: DeployedService, percent: int | None, served: list[str], timeout: float) -> ServiceState:
    """Give the newest version its share of the requests, or all with None.

    Args:
        served: the revisions that got the requests so far; when they get none any more they become the standby.
    """
    deployed.set_canary(percent, deployed.fetch().components)
    state = wait_for_share(deployed, percent or 100, timeout)
    if percent is None and state.service:
        deployed.set_standby(state.service, served)
    return state


def withdraw(deployed: DeployedService, spec: KubernetesObject, before: ServiceState) -> None:
    """Scale a version that failed to zero, and restore the previous standby.

    Knative applies changes of scaling annotations to existing revisions (reconcilePA in knative/serving,
    pkg/reconciler/revision/reconcile_resources.go). Without them the pods would occupy their memory for ten minutes, and
    requests that queue for them would create more.
    """
    state = deployed.fetch()
    # A predictor gets its requests from a transformer: if that serves nobody, the predictor does not either.
    used = {revision for name in state.components for revision in state.shares(name) if state.shares(state.entry)}
    newest = {name: state.newest(name) for name in spec}
    failed = [
        revision
        for name, revision in newest.items()
        if signature(state.revisions.get(revision)) == signature(spec[name]) and revision not in used
    ]
    if not failed:
        return
    deployed.annotate_revisions(failed, {MIN_SCALE_ANNOTATION: "0"})
    never_ready = [name for name in failed if condition_of(state.revisions[name], "Ready")["status"] != "True"]
    if never_ready:
        deployed.annotate_revisions(never_ready, SCALE_TO_ZERO)
    if before.standby_revisions and state.service:
        deployed.set_standby(state.service, before.standby_revisions)
    log.info("Scaling to zero: %s", ", ".join(failed))


def return_to_previous(deployed: DeployedService, timeout: float) -> ServiceState:
    """Take all requests from the newest version.

    canaryTrafficPercent 0 is KServe's way: from a canary it returns to the version that got all requests, and from a
    finished rollout to the previous one (PropagateStatus in KServe's inference_service_status.go).
    """
    deployed.set_canary(0, deployed.fetch().components)
    for _ in poll(timeout):
        state = deployed.fetch()
        shares = state.shares(state.entry)
        if shares and state.newest() not in shares:
            return state
    raise Failure(
        f"the requests still go to {describe_traffic(state.traffic())} after {timeout} s: {unmet_conditions(state)}"
    )
