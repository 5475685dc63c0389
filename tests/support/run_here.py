"""Run the main function of a program in this process: without the start of Python, and with what a test has patched."""

import contextlib
import io
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from unittest import mock


def run_here(
    main: Callable[[list[str]], None], arguments: list, environment: Mapping[str, str] | None = None
) -> SimpleNamespace:
    """The exit status, standard output and standard error of a run.

    Args:
        environment: instead of that of this process.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_state_restored())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        if environment is not None:
            stack.enter_context(mock.patch.dict(os.environ, environment, clear=True))
        try:
            main([str(word) for word in arguments])
        except SystemExit as exited:
            code = exited.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@contextlib.contextmanager
def process_state_restored() -> Iterator[None]:
    """What a program sets for its whole process: signal handlers and logging."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)
