"""How a script fails: in one line that the user can act on."""

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator


class Failure(Exception):
    """The store or the cluster did not do what was asked; the message is one line for the user."""

    exit_code = 1


class BadInput(Failure):
    """What the user gave cannot work; the message is one line that says what to do."""

    exit_code = 2


@contextlib.contextmanager
def report_errors(log: logging.Logger) -> Iterator[None]:
    """What goes wrong in a script that writes nothing before it is done ends it: with a line, and an exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except BadInput as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
    except (Failure, OSError) as error:
        log.error("Nothing was written: %s", error)
        sys.exit(Failure.exit_code)
    except KeyboardInterrupt:
        log.error("Interrupted: nothing was written")
        sys.exit(130)
