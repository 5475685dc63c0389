"""scripts/command_line.py and failure.py: what the command lines of all programs share."""

import argparse
import logging

import pytest

from command_line import duration, jobs, percentage, positive_int
from failure import BadInput, Failure, report_errors


def test_argument_types_accept_their_range_only():
    assert (positive_int("7"), percentage("1"), percentage("99"), jobs("-1"), jobs("2")) == (7, 1, 99, -1, 2)
    for kind, texts in [
        (positive_int, ["0", "-1", "x", "1.5"]),
        (percentage, ["0", "100", "5%"]),
        (jobs, ["0", "-2", "all"]),
    ]:
        for text in texts:
            with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
                kind(text)


def test_a_duration_is_a_number_with_a_unit():
    assert [duration(text) for text in ("90s", "10m", "1.5h", "30d")] == [90, 600, 5_400, 2_592_000]
    for text in ("0m", "10", "m", "-1h", "1w"):
        with pytest.raises(argparse.ArgumentTypeError, match="not a duration such as"):
            duration(text)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BadInput("no such column"), 2, "no such column"),
        (Failure("the store is down"), 1, "the store is down"),
        (OSError(28, "No space left"), 1, "[Errno 28] No space left (nothing was written)"),
        (KeyboardInterrupt(), 130, "Interrupted: nothing was written"),
    ],
)
def test_an_expected_error_is_one_line_and_an_exit_status(caplog, error, status, line):
    with pytest.raises(SystemExit) as exited, report_errors(logging.getLogger("test")):
        raise error
    assert exited.value.code == status and [record.getMessage() for record in caplog.records] == [line]
