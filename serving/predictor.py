"""The predictor as the transformer uses it: every answer is checked against the centroids.

The predictor loads the model that is in the store and cannot detect that it is the wrong one. The transformer can: it
has the centroids from clusters.json. It checks every answer against them. It also sends the centroids themselves:
before it reports ready, after every failure, and every 30 s.
"""

import asyncio
import contextlib
import logging
import time

import numpy as np
from kserve.predictor_config import PredictorConfig

from model.clusters import Clusters
from serving.predictor_client import (
    Headers,
    PredictorClient,
    PredictorTimeout,
    PredictorUnavailable,
    PredictorUnreachable,
)

CHECK_INTERVAL = 30.0  # seconds between checks while they succeed
RECHECK_INTERVAL = 0.5  # seconds between checks while they fail
ROUNDING = 1e-9  # the predictor computes distances in another order

log = logging.getLogger("kserve.transformer")


class Predictor:
    """The predictor and its state.

    Args:
        config: address, protocol and timeout.
        model_name: the same for transformer and predictor.
        clusters: answers are checked against them; None: any number is accepted.
        dimensions: of the vectors.
    """

    def __init__(self, config: PredictorConfig, model_name: str, clusters: Clusters | None, dimensions: int) -> None:
        self.client, self.clusters, self.timeout = PredictorClient(config, model_name), clusters, config.timeout
        self.name = self.client.name
        self.centroids = clusters.centroids[clusters.numbers] if clusters else np.zeros((1, dimensions))
        # Why the transformer should get no requests; None once the predictor has passed a check.
        self.not_ready: str | None = f"{self.name} has not been checked yet."
        self.failure: str | None = None  # why requests are refused without being passed on
        self.unreachable_since: float | None = None  # time.monotonic() of the first check without an answer
        self.check_now, self.recovered = asyncio.Event(), asyncio.Event()

    async def predict(self, vectors: np.ndarray, headers: Headers | None) -> list[int]:
        """Request the cluster of each vector, shape (documents, dimensions).

        If the predictor is unreachable, repeat the request once as soon as it is back, within the timeout.

        Raises:
            PredictorTimeout: it did not answer in time.
            PredictorUnavailable: it is down, or returned anything but the cluster of each vector.
        """
        if self.failure:
            raise PredictorUnavailable(self.failure)
        unreachable = None
        try:
            async with asyncio.timeout(self.timeout):
                try:
                    return await self.checked(vectors, headers)
                except PredictorUnreachable as error:
                    unreachable = error
                    self.check_now.set()
                    await self.recovered.wait()
                    return await self.checked(vectors, headers)
        except TimeoutError as error:
            timeout = PredictorTimeout(f"{self.name} did not answer within {self.timeout} s.")
            # Until a check succeeds, no other request should wait as long in vain.
            self.failure = unreachable.reason if unreachable else timeout.details
            self.check_now.set()
            raise unreachable or timeout from error
        except PredictorUnavailable:
            self.check_now.set()
            raise

    async def checked(self, vectors: np.ndarray, headers: Headers | None = None) -> list[int]:
        """Send one request, and check the answer against the centroids.

        Raises:
            TimeoutError: a proxy on the way timed out.
            PredictorUnavailable: as in predict.
        """
        numbers = await self.client.predict(vectors, headers)
        if self.clusters and not are_nearest(self.clusters, vectors, numbers):
            raise PredictorUnavailable(
                f"{self.name} holds a different model than the one that clusters.json describes: deploy again."
            )
        return numbers

    # ----------------------------------------------------------------------------------------------------- checks

    async def watch(self) -> None:
        """Check the predictor as long as the transformer runs."""
        while True:
            self.check_now.clear()
            if await self.check():
                self.client.renew_connections()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.check_now.wait(), CHECK_INTERVAL)
            else:
                await asyncio.sleep(RECHECK_INTERVAL)

    async def check(self) -> bool:
        """Send the centroids, and update the state by the answer.

        A transformer that was ready once stays ready. Otherwise Knative would hold requests back for minutes and
        start more pods for them, and clients would not get the reason.
        """
        before = self.not_ready, self.failure
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout):
                await self.client.probe()
                await self.checked(self.centroids)
        except (TimeoutError, PredictorUnreachable) as error:
            # Requests wait for a predictor that may be restarting, but not for one that has been away for longer.
            reason = error.reason if isinstance(error, PredictorUnreachable) else f"{self.name} does not answer."
            self.unreachable_since = self.unreachable_since or started
            self.not_ready = self.not_ready and reason
            if time.monotonic() - self.unreachable_since >= self.timeout:
                self.failure = reason
        except PredictorUnavailable as error:
            self.unreachable_since, self.failure = None, error.reason
            self.not_ready = self.not_ready and error.reason
        else:
            self.unreachable_since = self.not_ready = self.failure = None
            self.recovered.set()
            self.recovered.clear()  # the waiting requests are awake now
        if (self.not_ready, self.failure) != before:
            log.warning(self.not_ready or self.failure or f"{self.name} answers as clusters.json says")
        return not (self.failure or self.not_ready or self.unreachable_since)

    async def close(self) -> None:
        await self.client.close()


def are_nearest(clusters: Clusters, vectors: np.ndarray, numbers: list[int]) -> bool:
    """Whether each number is that of the cluster nearest to its vector, except for rounding."""
    distances = clusters.distances(vectors)
    if distances.argmin(axis=1).tolist() == numbers:
        return True
    if not set(numbers) <= set(clusters.numbers):
        return False
    chosen = distances[np.arange(len(numbers)), numbers]
    return bool((chosen <= distances.min(axis=1) + ROUNDING).all())
