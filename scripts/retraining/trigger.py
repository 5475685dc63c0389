"""Whether to train now: what triggers a retraining, and what brakes it."""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime

from command_line import duration
from prometheus import Prometheus, Version, selector
from retraining.decision import Decision

DRIFTED, NOW = "drifted", "now"


def when(text: str) -> str | float:
    """The argument of --when: drifted, now, or an age in seconds. Raises ArgumentTypeError for anything else."""
    try:
        return text if text in (DRIFTED, NOW) else duration(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither drifted, nor now, nor an age such as 30d") from None


def find_trigger(
    condition: str | float, prometheus: Prometheus, stable: Version, created: str, now: datetime | None = None
) -> tuple[bool, str]:
    """Whether the condition of --when holds, and why or why not.

    Args:
        created: the time when the stable version was trained, ISO 8601.

    Raises:
        Failure: Prometheus does not respond.
    """
    if condition == NOW:
        return True, "requested with --when now"
    if condition == DRIFTED:
        return find_drift(prometheus, stable)
    age = ((now or datetime.now(UTC)) - datetime.fromisoformat(created)).total_seconds()
    days = f"{stable.version} is {age / 86_400:.1f} days old"
    return age >= float(condition), days


def find_drift(prometheus: Prometheus, stable: Version) -> tuple[bool, str]:
    alerts = prometheus.drift_alerts(stable)
    if alerts:
        values = ", ".join(f"{alert} with {value:.2f}" for alert, value in sorted(alerts.items()))
        return True, f"{values} fires for {stable.version}"
    if not prometheus.query(selector("textclustering_trained_documents", stable)):
        return False, f"Prometheus at {prometheus.url} has no metrics of {stable.version}"
    return False, f"no drift alert fires for {stable.version}"


def find_brake(decisions: Sequence[Decision], cooldown: float, now: datetime | None = None) -> str:
    """Why not to train although something triggers it; empty if nothing brakes.

    Args:
        decisions: the oldest first.
        cooldown: in seconds.
    """
    if not decisions:
        return ""
    last = decisions[-1]
    # The difference of clocks that are off by an hour may be negative: then the decision counts as made just now.
    age = ((now or datetime.now(UTC)) - datetime.fromisoformat(last.time)).total_seconds()
    if age >= cooldown:
        return ""
    return f"the last decision ({last.verdict} {last.version}) is {max(age, 0) / 3_600:.1f} h old, --cooldown {cooldown / 3_600:.1f} h"
