"""Compare a canary with the stable version in the same minutes, measured by Prometheus.

The rules are those of Argo Rollouts (assessMetricStatus in argoproj/argo-rollouts, analysis/analysis.go): more failed
measurements than a limit end the analysis, an unreachable Prometheus is an error and not a failure, and too few requests
are inconclusive. As in Kayenta, the canary is compared with a baseline of the same minutes, not with a constant: invalid
requests of clients and a busy machine affect both versions.
"""

import json
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
    consecutive_errors: int = 4  # without an answer of Prometheus or the cluster; one more ends the analysis


class Figures(NamedTuple):
    """What Prometheus knows of a version in an interval."""

    requests: float
    failed: float  # requests that did not reach the last stage: errors of the server, and invalid requests
    p99: float  # in seconds, the sum of the stages; nan without requests
    p99_at_least: float  # allowing for chance: the quantile three standard errors below
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


def fetch_figures(prometheus: Prometheus, component: str, version: Version, seconds: int) -> Figures:
    """Fetch the figures of a version in the last `seconds`.

    Args:
        component: that receives the requests.

    Raises:
        Failure: Prometheus does not respond.
    """
    names = {"namespace": version.namespace, "service": version.model_name, "version": version.version}
    labels = ",".join(f"{name}={json.dumps(value)}" for name, value in (names | {"component": component}).items())

    def rise(series: str) -> float:
        return value_of(prometheus, f"sum(increase(request_{series}{{{labels}}}[{seconds}s]))", 0)

    def seconds_at(quantile: float) -> float:
        """The sum of the stages' quantiles."""
        buckets = "sum by (le) (increase(request_{stage}_seconds_bucket{{" + labels + "}}[" + str(seconds) + "s]))"
        queries = [f"histogram_quantile({quantile:.4f}, {buckets.format(stage=stage)})" for stage in STAGES]
        return sum(value_of(prometheus, query, math.nan) for query in queries)

    requests, predicted, explained, answered = (
        rise(f"{stage}_seconds_count") for stage in ("preprocess", "predict", "explain", "postprocess")
    )
    # Requests in progress during a scrape are counted in preprocess only, but have not failed. Their number differs by
    # chance between the beginning and the end of the interval: three standard errors are left out.
    in_progress = (rise("predict_seconds_sum") + rise("explain_seconds_sum")) / seconds
    rejected = max(requests - predicted - explained - 3 * math.sqrt(2 * in_progress), 0)
    failed = max(predicted + explained - answered, 0) + rejected
    lowest = seconds_at(max(0.99 - 3 * math.sqrt(0.99 * 0.01 / requests), 0)) if requests else math.nan
    drift = prometheus.drift_alerts(version)
    return Figures(requests, failed, seconds_at(0.99), lowest, drift)


def value_of(prometheus: Prometheus, query: str, default: float) -> float:
    """The value of an expression with at most one series."""
    return next((value for _, value in prometheus.query(query)), default)


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
    """Whether the canary's p99 is above that of the stable version, by more than chance in so few requests."""
    limit = max(stable.p99 * limits.p99_ratio, stable.p99 + limits.p99_rise)
    if math.isnan(canary.p99 + limit) or canary.p99_at_least <= limit:
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
        Figures(sum(of.requests for of in column), sum(of.failed for of in column), math.nan, math.nan, {})
        for column in zip(*pairs)
    ]
    enough = len(totals) == 2 and min(of.requests for of in totals) >= limits.requests
    return more_errors(totals[0], totals[1], limits) if enough else []
