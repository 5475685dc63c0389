"""How figures of a canary and of the stable version become a verdict."""

import math

import pytest

from retraining.analysis import Figures, Limits, Measurement, compare, conclude

LIMITS = Limits()
STABLE = Figures(480, 0, 0.02, 0.02, {})
DRIFT = "TextsHaveDrifted (3m)"


@pytest.mark.parametrize(
    ("canary", "stable", "reason"),
    [
        ((120, 12, 0.02), {}, "10.0% of its requests fail, and 0.0% of those of the stable version"),
        ((120, 120, 0.02), {}, "100.0% of its requests fail"),
        ((120, 0, 1.2), {}, "its p99 is 1.200 s, and that of the stable version 0.020 s"),
        ((120, 0, 0.02, {DRIFT: 0.4}), {}, "TextsHaveDrifted (3m) fires (0.40)"),
        ((120, 0, 0.02, {DRIFT: 0.4}), {DRIFT: 0.3}, "fires (0.40, 0.30 for the stable version)"),
    ],
)
def test_a_canary_that_does_worse_in_the_same_minute_fails_with_the_reason(canary, stable, reason):
    measurement = compare(figures(*canary), STABLE._replace(drift=stable), LIMITS)
    assert measurement.result == "failed" and reason in measurement.reason


@pytest.mark.parametrize(
    ("canary", "stable"),
    [
        ((120, 0, 0.02), STABLE),
        ((120, 1, 0.02), STABLE),  # one error is chance
        ((120, 12, 0.02), STABLE._replace(failed=48)),  # clients send invalid requests to both
        ((120, 0, 1.2), STABLE._replace(p99=1.0, p99_at_least=0.9)),  # the machine is busy
        ((120, 0, 0.05), STABLE),  # a multiple of very little
        ((120, 0, math.nan), STABLE),
        ((120, 0, (1.2, 0.05)), STABLE),  # two slow requests are chance
        ((120, 0, 0.02, {DRIFT: 0.3}), STABLE._replace(drift={DRIFT: 0.5})),  # less than the stable version
    ],
)
def test_chance_and_what_affects_both_versions_is_no_failure(canary, stable):
    assert compare(figures(*canary), stable, LIMITS) == Measurement("passed", "", figures(*canary), stable)


@pytest.mark.parametrize(("canary", "stable"), [(49, 480), (0, 480), (120, 49)])
def test_too_few_requests_are_inconclusive_even_if_all_failed(canary, stable):
    measurement = compare(figures(canary, canary, 9.0), STABLE._replace(requests=stable), LIMITS)
    assert measurement.result == "inconclusive" and "50 of each are needed" in measurement.reason


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ("p" * 9, None),
        ("p" * 10, "promoted"),
        ("pppfpppppp", "promoted"),  # one failed measurement is tolerated
        ("pppfppf", "rolled back"),
        ("ff", "rolled back"),
        ("eeee", None),
        ("eeeee", "inconclusive"),
        ("eeeepeeeep", "inconclusive"),
        ("pppppeeeei", "promoted"),
        ("ppppiiiiii", "inconclusive"),
        ("iiiiiiiiii", "inconclusive"),
    ],
)
def test_verdict_follows_the_limits_of_failures_and_errors(results, verdict):
    conclusion = conclude([as_measured(result) for result in results], 10, LIMITS)
    assert (conclusion and conclusion.verdict) == verdict
    assert conclusion is None or conclusion.reason


def test_a_rise_of_errors_that_is_chance_in_each_measurement_shows_in_their_sum():
    measurements = [compare(figures(100, 2, 0.02), figures(400, 0, 0.02), LIMITS) for _ in range(10)]
    assert {measurement.result for measurement in measurements} == {"passed"}
    conclusion = conclude(measurements, 10, LIMITS)
    assert (
        conclusion.verdict == "rolled back" and "over all measurements, 2.0% of its requests fail" in conclusion.reason
    )


def figures(requests, failed, p99, drift=None) -> Figures:
    return Figures(requests, failed, *(p99 if isinstance(p99, tuple) else (p99, p99)), drift or {})


def as_measured(result) -> Measurement:
    names = {"p": "passed", "f": "failed", "i": "inconclusive", "e": "error"}
    return Measurement(names[result], f"the reason of {result}")
