"""Read the dates of documents: ISO 8601, epoch time, dates as in e-mails, and those that Parquet has already."""

import re
from datetime import UTC, date, datetime, time
from email.utils import parsedate_to_datetime
from typing import Any

# Names of columns with the date of a document, without case, spaces, - and _; an earlier name takes precedence.
NAMES = (
    *("date", "datetime", "timestamp", "created", "createdat", "createdon", "creationdate", "published", "publishedat"),
    *("pubdate", "postedat", "sentat"),
)
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
MONTH = re.compile(r"\d{4}-\d\d")
YEARS = range(1_000, 3_000)  # a number in this range is a year
# Epoch time up to the year 5138 in these units per second, by the first number that is out of their range.
UNITS = {1e11: 1, 1e14: 1_000, 1e17: 1_000_000, 1e20: 1_000_000_000}


def read_date(value: Any) -> datetime | None:
    """The date in a cell, in UTC, which is assumed where there is no time zone; None for an empty cell.

    Raises:
        ValueError: the cell contains something else.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    try:
        moment = as_datetime(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (OverflowError, OSError, TypeError) as error:
        raise ValueError(f"{value!r} is no date") from error


def as_datetime(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return from_number(value)
    if not isinstance(value, str):
        raise TypeError
    text = value.strip()
    if NUMBER.fullmatch(text) and len(text) != len("20261129"):
        return from_number(float(text))
    try:
        return datetime.fromisoformat(f"{text}-01" if MONTH.fullmatch(text) else text)
    except ValueError:
        return parsedate_to_datetime(text)


def from_number(number: float) -> datetime:
    """A year, or the time since 1970 in seconds, milliseconds, microseconds or nanoseconds."""
    if number in YEARS:
        return datetime(int(number), 1, 1)
    unit = next((unit for limit, unit in UNITS.items() if abs(number) < limit), 0)
    if not unit:
        raise ValueError
    return datetime.fromtimestamp(number / unit, UTC)
