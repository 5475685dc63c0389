"""Topics over time: the share of each cluster in the documents of each month, week, day or year."""

from collections import Counter
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

import numpy as np

FEWEST, MOST = 6, 60  # periods
OUTSIDE = (
    0.01  # of the documents at either end: a few wrong dates, such as 1970-01-01, would leave no room for the others
)
WIDTH, HEIGHT = 200, 48  # of a chart


class Unit(NamedTuple):
    """How days are grouped into periods, which are consecutive numbers."""

    name: str
    form: str  # of a period's first day, as strftime has it

    def number(self, day: int) -> int:
        """The number of the period of a day, which is given by its proleptic Gregorian ordinal."""
        moment = date.fromordinal(day)
        months = 12 * moment.year + moment.month - 1
        # Day 1 is a Monday.
        return {"month": months, "day": day, "week": (day - 1) // 7, "year": moment.year}[self.name]

    def first_day(self, number: int) -> date:
        if self.name == "month":
            return date(number // 12, number % 12 + 1, 1)
        if self.name == "year":
            return date(number, 1, 1)
        return date.fromordinal(number if self.name == "day" else 7 * number + 1)

    def label(self, number: int) -> str:
        return self.first_day(number).strftime(self.form)


MONTH, DAY = Unit("month", "%Y-%m"), Unit("day", "%Y-%m-%d")
WEEK, YEAR = Unit("week", "%Y-%m-%d"), Unit("year", "%Y")


def topics_over_time(by_day: Mapping[tuple[int, int], int], numbers: list[int]) -> dict[str, Any] | None:
    """The charts of the report; None if all documents are of one period.

    Args:
        by_day: numbers of documents by day (proleptic Gregorian ordinal) and cluster.
        numbers: of the clusters.

    Returns:
        unit: month, week, day or year; first, last: labels of periods; documents: number of those with a date; outside:
        number of those before the first or after the last period; charts: for each cluster its number, the points of its
        line in a box of WIDTH x HEIGHT, the highest share, and the rise of its trend line from the first to the last
        period; the largest rise first.
    """
    days = Counter[int]()
    for (day, _), count in by_day.items():
        days[day] += count
    if not days:
        return None
    first, last = trimmed_range(days)
    unit = choose_unit(first, last)
    start, periods = unit.number(first), unit.number(last) - unit.number(first) + 1
    if periods == 1:
        return None
    counts = np.zeros((len(numbers), periods), dtype=int)
    for (day, number), count in by_day.items():
        if 0 <= (period := unit.number(day) - start) < periods:
            counts[numbers.index(number), period] += count
    charts = [chart(number, own, counts.sum(axis=0)) for number, own in zip(numbers, counts)]
    return {
        "unit": unit.name,
        "first": unit.label(start),
        "last": unit.label(start + periods - 1),
        "documents": days.total(),
        "outside": days.total() - int(counts.sum()),
        "charts": sorted(charts, key=lambda chart: -chart["rise"]),
    }


def trimmed_range(days: Counter[int]) -> tuple[int, int]:
    """The first and the last day, without a small share of the documents at either end."""
    ordered = sorted(days)
    ends = np.cumsum([days[day] for day in ordered])
    first, last = np.searchsorted(ends, [OUTSIDE * ends[-1], (1 - OUTSIDE) * ends[-1]])
    return ordered[first], ordered[last]


def choose_unit(first: int, last: int) -> Unit:
    """The unit that gives a chart a suitable number of points, months if possible."""
    for unit in (MONTH, DAY, WEEK, YEAR):
        if FEWEST <= unit.number(last) - unit.number(first) + 1 <= MOST:
            return unit
    return DAY if last - first < MOST else YEAR


def chart(number: int, counts: np.ndarray, totals: np.ndarray) -> dict[str, Any]:
    """The chart of a cluster.

    Args:
        counts, totals: documents of the cluster and of all clusters by period, shape (periods,).
    """
    known = np.flatnonzero(totals)  # there may be none for some time
    shares = counts[known] / totals[known]
    highest = max(shares.max(), 1e-9)
    place = known / max(len(totals) - 1, 1)
    points = [(round(WIDTH * x, 1), round(HEIGHT * (1 - y / highest), 1)) for x, y in zip(place, shares)]
    weights = totals[known] / totals.sum()
    deviation = place - weights @ place
    slope = (weights * deviation) @ shares / max((weights * deviation) @ deviation, 1e-12)
    return {"cluster": number, "points": points, "highest": float(highest), "rise": float(slope)}
