"""Try a canary: deploy it, watch it beside the stable version, then promote it, roll it back, or leave it to a person."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from deployment.deployed_service import DeployedService, ServiceState, describe_traffic
from deployment.diagnosis import containers, is_ready, revision_of, troubles
from deployment.gateway import NoAnswer, WrongAnswer
from deployment.manifests import KubernetesObject
from deployment.polling import poll
from deployment.rollout import give_share, return_to_previous
from deployment.scaling import idle_revisions, scale_to_zero
from deployment.waiting import NO_ROOM_SECONDS, NotReady
from failure import BadInput, Failure
from prometheus import Prometheus, Version
from retraining import decision
from retraining.analysis import ERROR, FAILED, PASSED, Conclusion, Limits, Measurement, compare, conclude, fetch_figures
from retraining.decision import INCONCLUSIVE, PROMOTED, ROLLED_BACK, SUPERSEDED, Decision
from retraining.lock import Lock
from store.model_store import ModelStore

log = logging.getLogger(__name__)


class Watch(NamedTuple):
    """How to watch a canary."""

    duration: float = 600  # in seconds
    interval: float = 60
    limits: Limits = Limits()

    @property
    def planned(self) -> int:
        """The number of measurements."""
        return max(1, round(self.duration / self.interval))


class Trial(NamedTuple):
    """What a canary is tried with."""

    deployed: DeployedService
    store: ModelStore
    prometheus: Prometheus
    watch: Watch
    timeout: float  # of each change of the traffic, in seconds
    lock: Lock


def serves_alone(state: ServiceState, version: str) -> bool:
    """Whether a version gets all requests."""
    return list(state.traffic()) == [version]


def end_standby(deployed: DeployedService, state: ServiceState, stable: str, candidate: str) -> ServiceState:
    """End the pods of the standby, which the canary will replace, and wait until their room is free.

    The pods of a scheduled run have a lower priority than those of services: on a full node Kubernetes would evict the
    run in favour of its own canary, and no pod of the next run would find room.

    Returns:
        The state afterwards; a person may have changed the traffic meanwhile, which ends the wait.
    """
    for is_caller in (True, False):  # first the transformer, which would start its predictor again until it has ended
        idle = [name for name in idle_revisions(state, {}) if state.version_of(name) != candidate]
        names = [name for name in idle if bool(state.predictor_of(name)) == is_caller]
        if not names or not serves_alone(state, stable):
            continue
        scale_to_zero(deployed, state, names)
        log.info("Waiting at most %d s until their pods have ended, to make room for the canary", NO_ROOM_SECONDS)
        for _ in poll(NO_ROOM_SECONDS):
            state = deployed.fetch()
            if not serves_alone(state, stable) or not any(revision_of(pod) in names for pod in state.pods):
                break
    return state


def try_canary(trial: Trial, started: Decision, deploy: Callable[[], None]) -> Decision:
    """Deploy a canary, watch it, act on the conclusion, and record it in the store.

    Args:
        deploy: deploys the version of the decision as a canary.

    Raises:
        Failure: the cluster or the store failed. The decision stays in progress in the store.
    """
    decision.write(trial.store, started)
    try:
        deploy()
    except (NotReady, WrongAnswer, NoAnswer, BadInput) as error:
        if isinstance(error, NoAnswer) and not error.reached:
            raise
        failed = started.conclude(ROLLED_BACK, f"it got no requests: {error}")
        decision.write(trial.store, failed)
        return failed
    given = trial.deployed.fetch().traffic().get(started.version, 0)
    started = started._replace(details=started.details | {"canary": {"percent": given, "since": decision.now()}})
    decision.write(trial.store, started)
    return watch_canary(trial, started)


def watch_canary(trial: Trial, started: Decision) -> Decision:
    """Watch a canary that gets requests, act on the conclusion, and record it in the store."""
    conclusion, measurements = observe(trial, started)
    trial.lock.check()
    state = trial.deployed.fetch()
    if not is_canary(state, started.version):
        conclusion = superseded(state)
    elif conclusion.verdict == PROMOTED:
        state = give_share(trial.deployed, state, None, state.serving(except_newest=True), trial.timeout)
        log.info("Traffic: %s", describe_traffic(state.traffic()))
    elif conclusion.verdict == ROLLED_BACK:
        state = return_to_previous(trial.deployed, state, trial.timeout)
        log.info("Traffic: %s", describe_traffic(state.traffic()))
        scale_to_zero(trial.deployed, state, [state.newest(name) for name in state.components])
    elif conclusion.verdict == INCONCLUSIVE:
        log.warning("The canary stays as it is: decide with deploy_service.py --promote or --rollback")
    concluded = started.conclude(*conclusion, analysis=describe_analysis(trial.watch, measurements))
    decision.write(trial.store, concluded)
    return concluded


def observe(trial: Trial, started: Decision) -> tuple[Conclusion, list[Measurement]]:
    """Measure at each interval until there is a conclusion."""
    watch, measurements = trial.watch, list[Measurement]()
    state = trial.deployed.fetch()
    restarts = restart_count(canary_pods(state))
    log.info("Watching %s beside %s for %.0f s", started.version, started.stable, watch.duration)
    while True:
        if not is_canary(state, started.version):
            return superseded(state), measurements
        if conclusion := conclude(measurements, watch.planned, watch.limits):
            return conclusion, measurements
        time.sleep(watch.interval)
        try:
            state = trial.deployed.fetch()
            measurement = measure(trial, started, state, restarts)
        except Failure as error:
            measurement = Measurement(ERROR, str(error))
        measurements.append(measurement)
        log_measurement(measurement, len(measurements), watch.planned)


def measure(trial: Trial, started: Decision, state: ServiceState, restarts: int) -> Measurement:
    """Measure one interval. Pods that crash answer nothing and have no metrics, so their state counts as well.

    Args:
        restarts: of the canary's containers before it was watched.
    """
    pods = canary_pods(state)
    if trouble := pod_trouble(state, pods) or ("its containers restarted" if restart_count(pods) > restarts else ""):
        return Measurement(FAILED, trouble)
    namespace, name = trial.deployed.kubectl.namespace, trial.deployed.name
    canary, stable = (
        fetch_figures(trial.prometheus, state.entry, Version(namespace, name, version), round(trial.watch.interval))
        for version in (started.version, started.stable)
    )
    return compare(canary, stable, trial.watch.limits)


# ---------------------------------------------------------------------------------------- the state of the service


def stable_version(state: ServiceState, canary: str | None = None) -> str:
    """The version with the largest share of the requests, apart from the canary; empty if nothing serves."""
    shares = {version: share for version, share in state.traffic().items() if version != canary}
    return max(shares, key=lambda version: shares[version], default="")


def is_canary(state: ServiceState, version: str) -> bool:
    shares = state.traffic()
    return state.version_of(state.newest()) == version and 0 < shares.get(version, 0) < 100


def superseded(state: ServiceState) -> Conclusion:
    shares = describe_traffic(state.traffic()) or "the service is gone"
    return Conclusion(SUPERSEDED, f"somebody else changed the traffic meanwhile: {shares}")


def canary_pods(state: ServiceState) -> list[KubernetesObject]:
    newest = {state.newest(name) for name in state.components}
    return [pod for pod in state.pods if revision_of(pod) in newest and "deletionTimestamp" not in pod["metadata"]]


def pod_trouble(state: ServiceState, pods: list[KubernetesObject]) -> str:
    """Why a component of the canary has no ready pod; empty if each has one."""
    for name in state.components:
        own = [pod for pod in pods if revision_of(pod) == state.newest(name)]
        if not any(is_ready(pod) for pod in own):
            found = [f"{trouble.kind} {trouble.message}".strip() for pod in own for trouble in troubles(pod)]
            return f"no pod of its {name} is ready: {'; '.join(found) or 'no reason known yet'}"
    return ""


def restart_count(pods: list[KubernetesObject]) -> int:
    return sum(container.get("restartCount", 0) for pod in pods for container in containers(pod))


# ------------------------------------------------------------------------------------------------------- reporting


def log_measurement(measurement: Measurement, number: int, planned: int) -> None:
    figures = [
        f"{name} {of.requests:.0f} requests, {of.failed:.0f} failed, p99 {of.p99:.3f} s"
        for name, of in (("canary", measurement.canary), ("stable", measurement.stable))
        if of
    ]
    text = "; ".join([*figures, *filter(None, [measurement.reason])])
    level = logging.INFO if measurement.result == PASSED else logging.WARNING
    log.log(level, "Measurement %d of %d %s: %s", number, planned, measurement.result, text)


def describe_analysis(watch: Watch, measurements: list[Measurement]) -> dict[str, Any]:
    """The figures and limits of an analysis, for decision.json."""
    rows = []
    for measurement in measurements:
        pair = {"canary": measurement.canary, "stable": measurement.stable}
        figures = {name: without_nan(of._asdict()) for name, of in pair.items() if of}
        rows.append({"result": measurement.result, "reason": measurement.reason} | figures)
    limits = watch.limits._asdict()
    return {"duration": watch.duration, "interval": watch.interval, "limits": limits, "measurements": rows}


def without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    """For JSON, which has no nan."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures.items()}
