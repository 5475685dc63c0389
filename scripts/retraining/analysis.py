"""Compare a canary with the stable version in the same minutes, measured by Prometheus.

The rules are those of Argo Rollouts (assessMetricStatus in argoproj/argo-rollouts, analysis/analysis.go): more failed
measurements than a limit end the analysis, an unreachable Prometheus is an error and not a failure, and too few requests
are inconclusive. As in Kayenta, the canary is compared with a baseline of the same minutes, not with a constant: invalid
requests of clients and a busy machine affect both versions.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from prometheus import Prometheus, Version
from retraining.decision import INCONCLUSIVE, PROMOTED, ROLLED_BACK

# KServe measures the stages of a request. explain is left out: few requests have it, and it takes longer than predict.
STAGES = ("preprocess", "predict", "postprocess")

PASSED, FAILED, UNDECIDED, ERROR = "passed", "failed", "inconclusive", "error"


class Limits(NamedTuple):
    """What a canary may differ by, and how many measurements may fail."""

    requests: int = 50  # of each version in an interval; fewer are inconclusive
    error_rise: float = 0.01  # of the share of failed requests above that of the stable version, beyond chance
    p99_ratio: float = 1.5  # to that of the stable version; a failure if this and the next are exceeded
    p99_rise: float = 0.1  # in seconds
    drift_ratio: float = 1.25  # of the value of a drift alert to that of the stable version, if it fires for both
    failures: int = 1  # failed measurements; one more rolls back
    consecutive_errors: int = (
        4  # measurements that Prometheus or the cluster does not answer; one more ends the analysis
    )


class Figures(NamedTuple):
    """What Prometheus knows of a version in an interval."""

    requests: float
    failed: float  # requests that did not reach the last stage: errors of the server, and invalid requests
    p99: float  # in seconds, the sum of the stages; nan without requests
    drift: dict[str, float]  # value of each drift alert that fires, by alert and window


class Measurement(NamedTuple):
    """A comparison of the two versions in one interval."""

    result: str
    reason: str
    canary: Figures | None = None
    stable: Figures | None = None


class Conclusion(NamedTuple):
    verdict: str
    reason: str


def fetch_figures(prometheus: Prometheus, component: str, versions: Sequence[Version], seconds: int) -> list[Figures]:
    """Fetch the figures of versions of one service in the last `seconds`.

    Args:
        component: that receives the requests.

    Raises:
        Failure: Prometheus does not respond.
    """
    namespace, service = versions[0].namespace, versions[0].model_name
    names = "|".join(version.version for version in versions)
    labels = f'namespace="{namespace}",service="{service}",component="{component}",version=~"{names}"'

    def by_version(expression: str) -> dict[str, float]:
        return {labels["version"]: value for labels, value in prometheus.query(expression)}

    def count(stage: str) -> dict[str, float]:
        return by_version(f"sum by (version) (increase(request_{stage}_seconds_count{{{labels}}}[{seconds}s]))")

    def p99(stage: str) -> dict[str, float]:
        increase = f"sum by (version, le) (increase(request_{stage}_seconds_bucket{{{labels}}}[{seconds}s]))"
        return by_version(f"histogram_quantile(0.99, {increase})")

    received, answered, p99s = count("preprocess"), count("postprocess"), [p99(stage) for stage in STAGES]
    return [
        Figures(
            requests := received.get(name, 0),
            max(requests - answered.get(name, 0), 0),
            sum(of_stage.get(name, math.nan) for of_stage in p99s),
            prometheus.drift_alerts(version),
        )
        for version in versions
        for name in [version.version]
    ]


def compare(canary: Figures, stable: Figures, limits: Limits) -> Measurement:
    """Judge one interval."""
    if min(canary.requests, stable.requests) < limits.requests:
        reason = f"{canary.requests:.0f} requests of the canary and {stable.requests:.0f} of the stable version"
        return Measurement(UNDECIDED, f"{reason}, and {limits.requests} of each are needed", canary, stable)
    problems = [*more_errors(canary, stable, limits), *slower(canary, stable, limits), *drift(canary, stable, limits)]
    if problems:
        return Measurement(FAILED, "; ".join(problems), canary, stable)
    return Measurement(PASSED, "", canary, stable)


def more_errors(canary: Figures, stable: Figures, limits: Limits) -> list[str]:
    """Whether the canary fails more of its requests, by more than three standard errors of the difference."""
    shares = canary.failed / canary.requests, stable.failed / stable.requests
    pooled = min((canary.failed + stable.failed) / (canary.requests + stable.requests), 1)
    noise = 3 * math.sqrt(pooled * (1 - pooled) * (1 / canary.requests + 1 / stable.requests))
    if shares[0] - shares[1] <= max(limits.error_rise, noise):
        return []
    return [f"{shares[0]:.1%} of its requests fail, and {shares[1]:.1%} of those of the stable version"]


def slower(canary: Figures, stable: Figures, limits: Limits) -> list[str]:
    if canary.p99 <= max(stable.p99 * limits.p99_ratio, stable.p99 + limits.p99_rise):
        return []
    if math.isnan(canary.p99 + stable.p99):
        return []
    return [f"its p99 is {canary.p99:.3f} s, and that of the stable version {stable.p99:.3f} s"]


def drift(canary: Figures, stable: Figures, limits: Limits) -> list[str]:
    """The drift alerts of the canary, except those that the stable version has as well, unless they are worse."""
    return [
        f"{alert} fires ({value:.2f}" + (f", {stable.drift[alert]:.2f} for the stable version)" if known else ")")
        for alert, value in canary.drift.items()
        for known in [alert in stable.drift]
        if not known or value > stable.drift[alert] * limits.drift_ratio
    ]


def conclude(measurements: Sequence[Measurement], planned: int, limits: Limits) -> Conclusion | None:
    """The verdict after these measurements; None while more are needed.

    Args:
        planned: the number of measurements of a complete analysis.
    """
    counts = Counter(measurement.result for measurement in measurements)
    if counts[FAILED] > limits.failures:
        last = next(measurement for measurement in reversed(measurements) if measurement.result == FAILED)
        return Conclusion(ROLLED_BACK, f"{counts[FAILED]} measurements failed, the last because {last.reason}")
    latest = measurements[-limits.consecutive_errors - 1 :]
    if len(latest) > limits.consecutive_errors and {measurement.result for measurement in latest} == {ERROR}:
        return Conclusion(
            INCONCLUSIVE, f"{len(latest)} measurements in a row had errors, the last: {latest[-1].reason}"
        )
    if len(measurements) < planned:
        return None
    if problems := errors_of_all(measurements, limits):
        return Conclusion(ROLLED_BACK, f"over all measurements, {problems[0]}")
    if 2 * counts[PASSED] < planned:
        others = [measurement.reason for measurement in measurements if measurement.result != PASSED]
        return Conclusion(
            INCONCLUSIVE, f"{counts[PASSED]} of {planned} measurements passed, the last other: {others[-1]}"
        )
    return Conclusion(PROMOTED, f"{counts[PASSED]} of {planned} measurements passed")


def errors_of_all(measurements: Sequence[Measurement], limits: Limits) -> list[str]:
    """Compare the errors of all intervals together, which shows a rise that is chance in each of them."""
    pairs = [(each.canary, each.stable) for each in measurements if each.canary and each.stable]
    totals = [
        Figures(sum(of.requests for of in column), sum(of.failed for of in column), math.nan, {})
        for column in zip(*pairs)
    ]
    enough = len(totals) == 2 and min(of.requests for of in totals) >= limits.requests
    return more_errors(totals[0], totals[1], limits) if enough else []
