"""Report expected errors as one log line, and exit with the status that belongs to each."""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator


class Failure(Exception):
    """An expected error, such as an unreachable store; the message is one line for the user."""

    exit_code = 1


class BadInput(Failure):
    """The input cannot work; the message is one line that says what to do."""

    exit_code = 2


INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT or SIGTERM, as shells report it


def exit_on_termination() -> None:
    """Make SIGTERM, with which Kubernetes ends a pod, leave the `with` blocks that clean up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


@contextlib.contextmanager
def report_errors(log: logging.Logger, outcome: str = "nothing was written") -> Iterator[None]:
    """Turn expected errors and Ctrl-C into one log line and an exit status.

    Args:
        outcome: what an unfinished run leaves behind; logged where the error itself does not say it.

    Raises:
        SystemExit: 1 for a failure, 2 for bad input, 130 for an interruption.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except Failure as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
    except OSError as error:
        log.error("%s (%s)", error, outcome)
        sys.exit(Failure.exit_code)
    except KeyboardInterrupt:
        log.error("Interrupted: %s", outcome)
        sys.exit(INTERRUPTED)
