"""Roll a version out, and return to the previous one.

A transformer only works with the model of its own training run, but KServe rolls the two components out one by one, and
Knative gives all requests to a component's newest revision as soon as that is ready. Therefore

- each transformer is pinned to the predictor revision of its own version (pin_transformer),
- a new version gets 0 percent of the requests until both components are ready and it has passed a smoke test,
- the previous version keeps its pods, so that a rollback is immediate (standby_route), unless the new one needs the room,
- a version that failed is scaled to zero.
"""

import logging
from datetime import UTC, datetime
from typing import Any

from deployment.deployed_service import DeployedService, ServiceState, describe_traffic
from deployment.diagnosis import is_ready, rejection, revision_of, unmet_conditions
from deployment.gateway import Gateway, NoAnswer, WrongAnswer
from deployment.manifests import (
    ATTEMPT_ANNOTATION,
    MIN_SCALE_ANNOTATION,
    READY_ANNOTATION,
    Content,
    KubernetesObject,
    ServiceSettings,
    annotation,
    inference_service,
    pin_transformer,
    signature,
)
from deployment.polling import poll
from deployment.scaling import restore_scale, scale_to_zero
from deployment.verification import describe_serving
from deployment.waiting import (
    NotReady,
    wait_for_new_pods,
    wait_for_predictor,
    wait_for_share,
    wait_for_standby,
    wait_until_ready,
)
from failure import BadInput, Failure

log = logging.getLogger(__name__)


# -------------------------------------------------------------------------------------------------------- deploy


def roll_out(
    deployed: DeployedService,
    gateway: Gateway,
    before: ServiceState,
    service: KubernetesObject,
    clusters: list[dict[str, Any]],
    canary: int | None,
) -> ServiceState:
    """Apply a version, and give it its requests once it has passed the smoke test.

    If nothing serves yet, and in KServe's Standard mode, the version gets its requests at once. Returns the state afterwards.

    Args:
        before: the state before the rollout.
        service: the InferenceService to apply.
        clusters: of clusters.json, for the smoke test.
        canary: percent of the requests, or None for all.

    Raises:
        NotReady, WrongAnswer: the version failed and is scaled to zero.
        Replaced: somebody else applied another version meanwhile.
        Failure: the cluster failed.
    """
    spec = service["spec"]
    if serves_already(before, spec):
        return ensure_answers(deployed, gateway, before, clusters)
    held = is_held(before, spec)
    try:
        apply(deployed, before, service, gateway.timeout)
        if held:
            keep_serving(deployed, before, spec, gateway.timeout)
        ready = wait_until_ready(deployed, spec, gateway.timeout)
        record_ready(deployed, ready)
        if not held:
            return wait_for_share(deployed, spec, 100, gateway.timeout)
        gateway.smoke_test(make_newest_the_standby(deployed, ready, gateway.timeout), clusters)
    except (NotReady, WrongAnswer, NoAnswer) as error:
        if isinstance(error, NoAnswer) and not error.reached:
            raise
        withdraw(deployed, spec, before)
        raise type(error)(f"{error}{describe_serving(gateway, deployed.fetch())}") from None
    return give_share(deployed, ready, canary, before.serving(), gateway.timeout)


def record_ready(deployed: DeployedService, state: ServiceState) -> None:
    """Record that the newest revisions have been ready, and what they use."""
    deployed.bind_credentials(state)
    if state.on_knative:
        deployed.annotate_revisions([state.newest(name) for name in state.components], {READY_ANNOTATION: "true"})


def start(deployed: DeployedService, before: ServiceState, service: KubernetesObject, timeout: float) -> None:
    """Apply a version without waiting for it. If another one serves, it gets no requests."""
    if not serves_already(before, service["spec"]):
        apply(deployed, before, service, timeout)
        deployed.bind_credentials(deployed.fetch())


def serves_already(state: ServiceState, spec: KubernetesObject) -> bool:
    """Whether exactly this content gets all requests, also if a newer version failed or was rolled back."""
    if not state.on_knative or not state.shares(state.entry):
        return False
    return all(
        len(state.shares(name)) == 1
        and all(signature(state.revisions.get(revision)) == signature(spec[name]) for revision in state.shares(name))
        for name in spec
    )


def is_held(before: ServiceState, spec: KubernetesObject) -> bool:
    """Whether a version gets no requests at first, because another one serves."""
    return before.on_knative and bool(before.serving()) and not serves_already(before, spec)


def ensure_answers(
    deployed: DeployedService, gateway: Gateway, state: ServiceState, clusters: list[dict[str, Any]]
) -> ServiceState:
    """Test the version that serves, and re-create its pods if it does not answer correctly."""
    newer = (
        [] if state.newest() in state.shares(state.entry) else [f"; {state.newest()}, which is newer, gets no requests"]
    )
    log.info("This version serves already%s", "".join(newer))
    try:
        gateway._replace(timeout=10).smoke_test(state.host, clusters)
        return state
    except (NoAnswer, WrongAnswer) as error:
        if isinstance(error, NoAnswer) and not error.reached:
            raise
        log.warning("%s. Re-creating its pods", error)
    revisions = sorted(state.used_revisions())
    old = {pod["metadata"]["name"] for pod in state.pods if revision_of(pod) in revisions}
    deployed.delete_pods(old)
    wait_for_new_pods(deployed, revisions, old, gateway.timeout)
    return deployed.fetch()


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


def apply(deployed: DeployedService, before: ServiceState, service: KubernetesObject, timeout: float) -> None:
    """Apply the predictor, and then the transformer, pinned to the predictor's revision.

    Raises:
        NotReady: KServe rejects the predictor; the reasons are in the log.
        Replaced: somebody else applied another version.
        Failure: it takes too long.
    """
    spec = service["spec"]
    hold = {"canaryTrafficPercent": 0} if is_held(before, spec) else {}
    held = {**service, "spec": {name: {**part, **hold} for name, part in spec.items()}}
    if "transformer" not in spec:
        return deployed.kubectl.apply(held)
    unchanged = {name: part for name, part in before.spec.items() if name == "transformer"}
    deployed.kubectl.apply({**service, "spec": {**unchanged, "predictor": held["spec"]["predictor"]}})
    for _ in poll(timeout):
        state = wait_for_predictor(deployed, spec, timeout)
        pinned = pin_transformer(held, state.newest("predictor")) if state.on_knative else held
        # Otherwise a deployment that was replaced since then would replace the other one's predictor.
        if state.service and deployed.kubectl.apply_if_unchanged(pinned, state.service):
            return None
    raise Failure(f"the transformer of {deployed.name} could not be applied in {timeout} s: the service kept changing")


def keep_serving(deployed: DeployedService, before: ServiceState, spec: KubernetesObject, timeout: float) -> None:
    """Keep the requests where they were if KServe takes the 0 percent for a rollback.

    It does so when Knative's route gets the 0 percent before Knative has created the new revision, and then returns to
    the version before the one that serves (PropagateStatus in KServe's inference_service_status.go).
    """
    for _ in poll(timeout):
        state = deployed.fetch()
        state.check_not_replaced(spec)
        created = all(signature(state.revisions.get(state.newest(name))) == signature(spec[name]) for name in spec)
        if created or rejection(state):
            break
    kept = all(rolled_out(state, name) == rolled_out(before, name) for name in spec)
    starting = all(state.component(name).get("latestReadyRevision") != state.newest(name) for name in spec)
    if not kept and starting:
        log.info("KServe rolled back instead of holding the new version: trying again")
        deployed.set_canary(None, state)  # to the newest that is ready, which is the one that served
        for _ in poll(timeout):
            state = deployed.fetch()
            if all(rolled_out(state, name) == rolled_out(before, name) for name in spec):
                break
        deployed.set_canary(0, state)


def rolled_out(state: ServiceState, component: str) -> str | None:
    return state.component(component).get("latestRolledoutRevision")


def make_newest_the_standby(deployed: DeployedService, state: ServiceState, timeout: float) -> str:
    """Give the newest version an address without giving it the service's requests. Returns its host."""
    deployed.set_standby(state, [state.newest(name) for name in reversed(state.components)])
    return wait_for_standby(deployed, state.newest(), timeout)


def give_share(
    deployed: DeployedService, state: ServiceState, percent: int | None, served: list[str], timeout: float
) -> ServiceState:
    """Give the newest version its share of the requests, or all with None.

    Args:
        state: with this version as the newest. Raises Replaced if another one is the newest by now.
        served: the revisions that got the requests so far; when they get none any more they become the standby.
    """
    deployed.set_canary(percent, state)
    state = wait_for_share(deployed, state.spec, percent or 100, timeout)
    if percent is None:
        deployed.set_standby(state, served)
    return state


def withdraw(deployed: DeployedService, spec: KubernetesObject, before: ServiceState) -> None:
    """Scale a version that failed to zero, and restore the previous standby.

    Otherwise its pods would occupy their memory for ten minutes, and requests that queue for them would create more.
    """
    state = deployed.fetch()
    deployed.bind_credentials(state)
    newest = {name: state.newest(name) for name in spec}
    failed = [
        revision
        for name, revision in newest.items()
        if signature(state.revisions.get(revision)) == signature(spec[name]) and revision not in state.used_revisions()
    ]
    if not failed:
        return
    scale_to_zero(deployed, state, failed)
    standby = [name for name in before.standby_revisions if name in state.revisions]
    if standby:
        restore_scale(deployed, state, standby)
        deployed.set_standby(state, standby)


# ------------------------------------------------------------------------------------------------------ roll back


def return_to_previous(deployed: DeployedService, state: ServiceState, timeout: float) -> ServiceState:
    """Give all requests to the version before the one that serves.

    Args:
        state: of now.

    Raises:
        BadInput: there is no such version.
        Failure: the requests do not move.
    """
    previous = previous_revision(state)
    if previous is None:
        log.info("Rolled back already")
        return state
    if previous not in state.revisions:
        raise BadInput(f"{previous}, the previous version, is gone from the cluster: deploy its files again")
    pair = state.pair_of(previous)
    start_previous(deployed, state, pair, timeout)
    # If the newest version gets requests, canaryTrafficPercent 0 returns to the previous one: from a canary to the version
    # that got all requests, from a finished rollout to its predecessor. A version newer than the one that serves failed or
    # waits: then KServe has no way back (PropagateStatus in its inference_service_status.go), except its own status.
    newest_serves = state.newest() in state.shares(state.entry)
    if state.canary_percent != 0:
        deployed.set_canary(0, state)
    for _ in poll(timeout):
        state = deployed.fetch()
        if state.shares(state.entry) == {previous: 100}:
            return state
        if not newest_serves and rolled_out(state, state.entry) != previous:
            deployed.set_rolled_out(dict(zip(reversed(state.components), pair)))
    raise Failure(
        f"the requests still go to {describe_traffic(state.traffic())} after {timeout} s: {unmet_conditions(state)}"
    )


def previous_revision(state: ServiceState) -> str | None:
    """The revision that a rollback returns to: the predecessor of the one that serves. None after a rollback.

    Raises:
        BadInput: the service has had one version only.
    """
    status = state.component(state.entry)
    serving, previous = status.get("latestRolledoutRevision"), status.get("previousRolledoutRevision")
    if state.canary_percent:  # the canary is the newest; the one that was rolled out gets the other requests
        return serving
    if not previous:
        version = state.version_of(serving) if serving else "this version"
        raise BadInput(f"no version has served before {version}: there is no previous version to return to")
    return previous if previous != serving else None


def start_previous(deployed: DeployedService, state: ServiceState, revisions: list[str], timeout: float) -> None:
    """Wait for the pods of the previous version, which may have been scaled to zero to make room.

    Raises:
        NotReady: they do not start; the reasons are in the log, and the requests stay where they are.
    """
    restore_scale(deployed, state, revisions)
    if running_revisions(state).issuperset(revisions):
        return
    log.info("Starting the previous version, which was scaled to zero to make room")
    deployed.set_standby(state, revisions)
    ending = {pod["metadata"]["name"] for pod in state.pods if "deletionTimestamp" in pod["metadata"]}
    wait_for_new_pods(deployed, revisions, ending, timeout)


def running_revisions(state: ServiceState) -> set[str | None]:
    return {revision_of(pod) for pod in state.pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]}
