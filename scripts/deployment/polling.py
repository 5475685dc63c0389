"""Poll with a timeout, and limit how long a state that rarely recovers may last."""

import time
from collections.abc import Iterator

LONGEST_PAUSE = 2.0


def poll(timeout: float) -> Iterator[float]:
    """Yield the seconds elapsed, at short intervals first and then every LONGEST_PAUSE seconds, until `timeout` is over."""
    start, pause = time.monotonic(), 0.25
    while (elapsed := time.monotonic() - start) < timeout:
        yield elapsed
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, pause * 1.5)


class GracePeriod:
    """How long a state that rarely recovers may last, in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since: float | None = None

    def is_over(self, stuck: bool, elapsed: float) -> bool:
        """Whether the state has lasted for too long, `elapsed` seconds after the start."""
        if not stuck:
            self.since = None
            return False
        if self.since is None:
            self.since = elapsed
        return elapsed - self.since >= self.seconds
