"""Log how long a step takes."""

import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger("text_clustering")


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Log the beginning of a step, and its duration at the end."""
    log.info("%s ...", step)
    start = time.perf_counter()
    yield
    log.info("%s: done in %.1f s", step, time.perf_counter() - start)
