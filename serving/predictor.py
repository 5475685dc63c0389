"""The predictor as the transformer uses it: every answer is checked against the centroids.

The predictor loads the model that is in the store and cannot detect that it is the wrong one. The transformer can: it
has the centroids from clusters.json. It checks every answer against them. It also sends the centroids themselves:
before it reports ready, after every failure, and every 30 s.

The centroids also answer in place of a predictor that fails: bypass. The predictor must have passed a check before, so
that a new version whose predictor never works does not become ready and answers no request.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from kserve.predictor_config import PredictorConfig

from model.clusters import Clusters
from serving.predictor_client import (
    DifferentModel,
    Headers,
    PredictorClient,
    PredictorTimeout,
    PredictorUnavailable,
    PredictorUnreachable,
)

CHECK_INTERVAL = 30.0  # seconds between checks while they succeed
RECHECK_INTERVAL = 0.5  # seconds between checks while they fail
BYPASS_AFTER = 0.5  # seconds without an answer
BYPASS_HEADER = "predictor-bypass"  # of a request; "off" insists on the predictor's own answer
KINDS = ("unreachable", "timeout", "error", "different model")  # of failures
ROUNDING = 1e-9  # the predictor computes distances in another order

log = logging.getLogger("kserve.transformer")


class Failure(NamedTuple):
    """Why the predictor is not used."""

    kind: str  # one of KINDS
    reason: str


class Predictor:
    """The predictor and its state.

    Args:
        config: address, protocol and timeout.
        model_name: the same for transformer and predictor.
        clusters: answers are checked against them; None: any number is accepted.
        dimensions: of the vectors.
        bypass: answer from the clusters while the predictor fails.
        count_bypass: called with one of KINDS for each request that is answered from the clusters.
    """

    def __init__(
        self,
        config: PredictorConfig,
        model_name: str,
        clusters: Clusters | None,
        dimensions: int,
        bypass: bool,
        count_bypass: Callable[[str], None],
    ) -> None:
        self.client, self.clusters, self.timeout = PredictorClient(config, model_name), clusters, config.timeout
        self.name = self.client.name
        self.bypass, self.count_bypass = bypass and clusters is not None, count_bypass
        self.centroids = clusters.centroids[clusters.numbers] if clusters else np.zeros((1, dimensions))
        # Why the transformer should get no requests; None once the predictor has passed a check.
        self.not_ready: str | None = f"{self.name} has not been checked yet."
        self.failure: Failure | None = None  # why requests are not passed on
        self.unreachable_since: float | None = None  # time.monotonic() of the first check without an answer
        self.check_now, self.recovered = asyncio.Event(), asyncio.Event()

    async def predict(self, vectors: np.ndarray, headers: Headers | None) -> list[int]:
        """Request the cluster of each vector, shape (documents, dimensions), or bypass a predictor that fails.

        Raises:
            PredictorTimeout, PredictorUnavailable: as in insist, if the predictor cannot be bypassed.
        """
        insisting = (headers or {}).get(BYPASS_HEADER, "").lower() == "off"
        if insisting or self.not_ready or not self.bypass or self.clusters is None:
            return await self.insist(vectors, headers)
        if not self.failure:
            try:
                async with asyncio.timeout(BYPASS_AFTER):
                    return await self.checked(vectors, headers)
            except (TimeoutError, PredictorUnavailable) as error:
                self.set_failure(self.describe(error))
                self.check_now.set()
        self.count_bypass(self.failure.kind if self.failure else "error")
        return self.clusters.nearest(vectors).tolist()

    async def insist(self, vectors: np.ndarray, headers: Headers | None) -> list[int]:
        """Request the cluster of each vector, shape (documents, dimensions), from the predictor only.

        If the predictor is unreachable, repeat the request once as soon as it is back, within the timeout.

        Raises:
            PredictorTimeout: it did not answer in time.
            PredictorUnavailable: it is down, or returned anything but the cluster of each vector.
        """
        if self.failure and (self.not_ready or not self.bypass):
            raise PredictorUnavailable(self.failure.reason)
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
            self.set_failure(self.describe(unreachable or error))
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
            raise DifferentModel(
                f"{self.name} holds a different model than the one that clusters.json describes: deploy again."
            )
        return numbers

    # ------------------------------------------------------------------------------------------------------ state

    def describe(self, error: TimeoutError | PredictorUnavailable) -> Failure:
        if isinstance(error, PredictorUnavailable):
            return Failure(error.kind, error.reason)
        return Failure("timeout", f"{self.name} does not answer.")

    def set_failure(self, failure: Failure | None) -> None:
        """Note why requests are not passed on, and log changes."""
        if not self.not_ready and (failure and failure.kind) != (self.failure and self.failure.kind):
            if failure is None:
                log.warning("%s is used again", self.name)
            elif self.bypass:
                log.warning("The predictor is bypassed, answers come from the centroids: %s", failure.reason)
            else:
                log.warning(failure.reason)
        self.failure = failure

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
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout):
                await self.client.probe()
                await self.checked(self.centroids)
        except (TimeoutError, PredictorUnavailable) as error:
            self.check_failed(self.describe(error), started)
            return False
        self.set_failure(None)
        if self.not_ready:
            log.info("%s answers as clusters.json says", self.name)
        self.unreachable_since = self.not_ready = None
        self.recovered.set()
        self.recovered.clear()  # the waiting requests are awake now
        return True

    def check_failed(self, failure: Failure, started: float) -> None:
        if self.not_ready and self.not_ready != failure.reason:
            log.warning(failure.reason)
        self.not_ready = self.not_ready and failure.reason
        if failure.kind not in ("unreachable", "timeout"):
            self.unreachable_since = None
            self.set_failure(failure)
            return
        # Without bypass, requests wait for a predictor that may be restarting, but not for longer than the timeout.
        self.unreachable_since = self.unreachable_since or started
        if self.bypass or time.monotonic() - self.unreachable_since >= self.timeout:
            self.set_failure(failure)

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
