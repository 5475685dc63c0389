"""Decisions about versions: kept in the store as decision.json beside the version, so that each has a reason later on."""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from failure import Failure
from store.model_store import ModelStore

IN_PROGRESS = "in progress"
PROMOTED = "promoted"
ROLLED_BACK = "rolled back"
REJECTED = "rejected"  # never deployed
INCONCLUSIVE = "inconclusive"  # left to a person
SUPERSEDED = "superseded"  # a person or another deployment changed the traffic meanwhile
FAILED = "failed"  # there is no candidate

FILE = "decision.json"


class Undecided(Failure):
    """The analysis of a canary had no result, or somebody else decided meanwhile."""

    exit_code = 3


class Decision(NamedTuple):
    """What was decided about a version, and why.

    The content of decision.json. `details` has what it is based on: inputs (what triggered it, the corpus), gate and
    analysis, each with figures and thresholds.
    """

    version: str
    stable: str  # the version that served
    verdict: str
    reason: str
    time: str  # ISO 8601 in UTC
    details: dict[str, Any]

    def conclude(self, verdict: str, reason: str, **details: Any) -> Self:
        """The decision with another verdict, from now on."""
        return self._replace(verdict=verdict, reason=reason, time=now(), details=self.details | details)

    def __str__(self) -> str:
        return f"{self.verdict} {self.version}: {self.reason}"


def start(version: str, stable: str, reason: str, **details: Any) -> Decision:
    return Decision(version, stable, IN_PROGRESS, reason, now(), details)


def without_version() -> str:
    """What stands for the version in a decision of a run that trained none."""
    return f"none-{datetime.now(UTC):%Y%m%d%H%M%S}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(store: ModelStore, decision: Decision) -> None:
    """Write decision.json beside the files of the version. Raises StoreError."""
    store.write_json(f"{store.prefix}{decision.version}/{FILE}", decision._asdict())


def read(store: ModelStore, version: str) -> Decision | None:
    """The decision about a version; None if nothing decided about it. Raises StoreError."""
    content = store.read(f"{store.prefix}{version}/{FILE}")
    return Decision(**json.loads(content)) if content else None


def read_all(store: ModelStore) -> list[Decision]:
    """All decisions about versions of the model, the oldest first. Raises StoreError."""
    keys = store.keys_below(store.prefix, absent=["NoSuchBucket"])
    contents = [store.read(key) for key in keys if key.endswith(f"/{FILE}")]
    decisions = [Decision(**json.loads(content)) for content in contents if content]
    return sorted(decisions, key=lambda decision: decision.time)


def require_promotion(decided: Decision) -> None:
    """Raises Failure if the version was rolled back, Undecided if it is left to a person."""
    if decided.verdict == ROLLED_BACK:
        raise Failure(f"Decision: {decided}")
    if decided.verdict != PROMOTED:
        raise Undecided(f"Decision: {decided}")


def print_all(decisions: list[Decision]) -> None:
    row = "{:<16}  {:<19}  {:<12}  {}"
    print(row.format("TIME", "VERSION", "VERDICT", "REASON"))
    for each in decisions:
        print(row.format(each.time[:16].replace("T", " "), each.version, each.verdict, each.reason))
