"""Log how long a step takes, and show how far it is on a terminal."""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

log = logging.getLogger("text_clustering")


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Log the beginning of a step, and its duration at the end."""
    log.info("%s ...", step)
    start = time.perf_counter()
    yield
    log.info("%s: done in %.1f s", step, time.perf_counter() - start)


def shown_on_terminal(step: str, items: Iterable[Item]) -> Iterable[Item]:
    """Iterate, with a progress line on a terminal that disappears at the end; a log gets none."""
    return tqdm(items, desc=step, leave=False, disable=None)
