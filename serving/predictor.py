"""KServe's scikit-learn predictor as the transformer sees it: vectors there, cluster numbers back.

The predictor loads whatever lies in the store and cannot tell whether it is the right model. The transformer can: it
knows the centroids from clusters.json, so every answer is held against them, and the centroids themselves are asked
for before the transformer says that it is ready, after every failure, and now and then.
"""

import asyncio
import contextlib
import functools
import logging
import time

import aiohttp
import grpc
import numpy as np
import orjson
from grpc_interceptor.exceptions import DeadlineExceeded
from kserve import InferInput, InferRequest, InferResponse
from kserve.errors import InvalidInput, ModelNotReady
from kserve.model import append_forwardable_headers
from kserve.predictor_config import PredictorConfig
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.clusters import Clusters

CHECK_AFTER = 30.0  # seconds from one check to the next while all is well
CHECK_AGAIN_AFTER = 0.5  # and while it is not

log = logging.getLogger("kserve.transformer")


class PredictorUnavailable(ModelNotReady):
    """The predictor is down, or answers with an error or as another model would: 503, UNAVAILABLE in gRPC."""

    def __init__(self, reason: str):
        self.reason = self.error_msg = reason


class PredictorGone(PredictorUnavailable):
    """Nobody answers where the predictor should be: as nothing was clustered, it can be asked again."""


class PredictorTimeout(DeadlineExceeded):
    """The predictor did not answer in time: 504, DEADLINE_EXCEEDED in gRPC."""


class Predictor:
    """A client of the predictor, in the protocol that it is configured for.

    Args:
        config: where it is, what it speaks, and how long it may take.
        model_name: the transformer's and the predictor's.
        clusters: what its answers are held against; None: nothing is known, any number will do.
        dimensions: of the vectors.
    """

    def __init__(self, config: PredictorConfig, model_name: str, clusters: Clusters | None, dimensions: int):
        self.config, self.model_name, self.clusters = config, model_name, clusters
        self.ask_over = {"v1": self.ask_over_v1, "v2": self.ask_over_v2, "grpc-v2": self.ask_over_grpc}[config.protocol]
        self.name = f"The predictor {config.predictor_host}"
        self.centroids = clusters.centroids[list(clusters.described)] if clusters else np.zeros((1, dimensions))
        # Why the transformer should get no requests.
        self.not_ready: str | None = f"{self.name} has not been asked yet."
        self.trouble: str | None = None  # why requests that come all the same are not passed on
        self.gone_since: float | None = None  # time.monotonic() of the first check that nobody answered
        self.doubted, self.answered = asyncio.Event(), asyncio.Event()
        self.retired: set[aiohttp.ClientSession] = set()  # whose last requests may still be on their way

    async def ask(self, vectors: np.ndarray, headers: dict | None) -> list[int]:
        """Let KServe's predictor find the cluster of each vector, shape (documents, dimensions).

        Where nobody answers, it is asked a second time as soon as it is back, within its time.

        Raises:
            PredictorTimeout: it takes too long.
            PredictorUnavailable: it is down, or answers with anything but the cluster of each vector.
        """
        if self.trouble:
            raise PredictorUnavailable(self.trouble)
        gone = None
        try:
            async with asyncio.timeout(self.config.timeout):
                try:
                    return await self.ask_once(vectors, headers)
                except PredictorGone as error:
                    gone = error
                    self.doubted.set()
                    await self.answered.wait()
                    return await self.ask_once(vectors, headers)
        except TimeoutError as error:
            failure = gone or PredictorTimeout(f"{self.name} did not answer within {self.config.timeout} s.")
            # Until a check says otherwise: nobody else should wait as long for nothing.
            self.trouble = gone.reason if gone else failure.details
            self.doubted.set()
            raise failure from error
        except PredictorUnavailable:
            self.doubted.set()
            raise

    async def ask_once(self, vectors: np.ndarray, headers: dict | None = None, knock: bool = False) -> list[int]:
        """Ask, and hold the answer against the centroids of clusters.json.

        Args:
            knock: see first whether anybody is there.

        Raises:
            TimeoutError: somebody on the way did not get an answer in time.
            PredictorGone, PredictorUnavailable: as in ask.
        """
        try:
            if knock:
                await self.knock()
            numbers = await self.ask_over(vectors, headers)
            expected = len(numbers) == len(vectors) and all(isinstance(number, int) for number in numbers)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:  # also killed amid its answer
            raise PredictorGone(f"{self.name} failed: {error}") from error
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            gone = error.code() == grpc.StatusCode.UNAVAILABLE
            kind = PredictorGone if gone else PredictorUnavailable
            raise kind(f"{self.name} failed: {error.code().name} {error.details()}") from error
        except aiohttp.ClientError as error:
            raise PredictorUnavailable(f"{self.name} failed: {error}") from error
        except (ValueError, LookupError, TypeError, InvalidInput) as error:
            raise PredictorUnavailable(f"{self.name} answered in no form that it should: {error!r}") from error
        if not expected:
            raise PredictorUnavailable(f"{self.name} answered something else than a number for each vector.")
        if self.clusters and not self.clusters.are_nearest(vectors, numbers):
            raise PredictorUnavailable(
                f"{self.name} answers as another model than the one that clusters.json describes: deploy again."
            )
        return numbers

    # ------------------------------------------------------------------------------------------------- protocols

    async def ask_over_v1(self, vectors: np.ndarray, headers: dict | None) -> list:
        answer = await self.post(f"/v1/models/{self.model_name}:predict", {"instances": vectors}, headers)
        return answer["predictions"]

    async def ask_over_v2(self, vectors: np.ndarray, headers: dict | None) -> list:
        tensor = {"name": "input-0", "shape": vectors.shape, "datatype": "FP64", "data": vectors.ravel()}
        answer = await self.post(f"/v2/models/{self.model_name}/infer", {"inputs": [tensor]}, headers)
        return answer["outputs"][0]["data"]

    async def post(self, path: str, body: dict, headers: dict | None) -> dict:
        async with self.session.post(
            self.config.predictor_base_url + path,
            data=orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY),
            headers=append_forwardable_headers(headers, {"content-type": "application/json"}),
        ) as response:
            if response.status != 200:
                raise await self.failure(response)
            return orjson.loads(await response.read())

    async def knock(self):
        """Ask for nothing much, and without a body.

        Knative's activator holds requests back while no pod of the predictor is ready, and counts them as load, for which
        it wants a pod. One without a body it drops when its client leaves. One with a body it keeps for five minutes: Go's
        server looks after its client only once the body is read (registerOnHitEOF in its net/http/server.go).
        """
        if self.config.protocol == "grpc-v2":
            return  # there a client that leaves says so
        async with self.session.get(self.config.predictor_base_url) as response:
            if response.status in (502, 503, 504):
                raise await self.failure(response)

    async def failure(self, response: aiohttp.ClientResponse) -> Exception:
        """What an answer with an error says about the predictor."""
        if response.status == 504:
            return TimeoutError()
        said = (await response.read())[:300].decode(errors="replace")
        # 502 and 503 are what proxies say when there is nobody behind them.
        kind = PredictorGone if response.status in (502, 503) else PredictorUnavailable
        return kind(f"{self.name} failed: {response.status} {response.reason} {said}")

    @functools.cached_property
    def session(self) -> aiohttp.ClientSession:
        # KServe's own REST client, made of httpx, takes seven times the CPU for a request.
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    async def ask_over_grpc(self, vectors: np.ndarray, headers: dict | None) -> list:
        tensor = InferInput("input-0", list(vectors.shape), "FP64")
        tensor.set_data_from_numpy(vectors)
        metadata = append_forwardable_headers(headers, {"request_type": "grpc_v2", "response_type": "grpc_v2"})
        answer = await self.stub.ModelInfer(
            InferRequest(self.model_name, [tensor]).to_grpc(),
            timeout=self.config.timeout,
            metadata=tuple(metadata.items()),
        )
        return InferResponse.from_grpc(answer).outputs[0].as_numpy().tolist()

    @functools.cached_property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    @functools.cached_property
    def channel(self) -> grpc.aio.Channel:
        host = self.config.predictor_host
        if ":" not in host:
            host += ":443" if self.config.use_ssl else ":80"
        options = [
            # gRPC itself waits up to two minutes before it tries again to reach a predictor that was down.
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),  # what is inside the cluster is not asked through a proxy
        ]
        if self.config.use_ssl:
            return grpc.aio.secure_channel(host, grpc.ssl_channel_credentials(), options)
        return grpc.aio.insecure_channel(host, options)

    # ----------------------------------------------------------------------------------------------------- checks

    async def watch(self):
        """Check the predictor for as long as the transformer runs."""
        while True:
            self.doubted.clear()
            well = await self.check()
            if well:
                self.let_connections_go()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.doubted.wait(), CHECK_AFTER)
            else:
                await asyncio.sleep(CHECK_AGAIN_AFTER)

    def let_connections_go(self):
        """Have the next requests go over new connections.

        A connection stays with its pod. Knative lets a pod end once nobody has asked it for half a minute, so one that
        is to go would stay for five minutes beside its successor (drainer in knative/serving, pkg/queue/sharedmain), and
        a pod that was added would get nothing to do.
        """

        async def close(session):
            await session.close()
            self.retired.discard(session)

        if session := vars(self).pop("session", None):
            self.retired.add(session)
            loop = asyncio.get_running_loop()
            loop.call_later(self.config.timeout + 1, lambda: loop.create_task(close(session)))

    async def check(self) -> bool:
        """Ask for the centroids, and note what that says about the predictor.

        A transformer that was ready once stays so, as without it nobody would tell the clients the reason: Knative would
        hold their requests back for minutes, and start more pods for them.
        """
        before = self.not_ready, self.trouble
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self.config.timeout):
                await self.ask_once(self.centroids, knock=True)
        except (TimeoutError, PredictorGone) as error:
            # Clients wait for a predictor that may be restarting, but not for one that has been away for long.
            reason = error.reason if isinstance(error, PredictorGone) else f"{self.name} does not answer."
            self.gone_since = self.gone_since or asked
            self.not_ready = self.not_ready and reason
            if time.monotonic() - self.gone_since >= self.config.timeout:
                self.trouble = reason
        except PredictorUnavailable as error:
            self.gone_since, self.trouble = None, error.reason
            self.not_ready = self.not_ready and error.reason
        else:
            self.gone_since = self.not_ready = self.trouble = None
            self.answered.set()
            self.answered.clear()  # who waits now has been woken
        if (self.not_ready, self.trouble) != before:
            log.warning(self.not_ready or self.trouble or f"{self.name} answers as clusters.json says")
        return not self.trouble and not self.not_ready and not self.gone_since

    async def close(self):
        for session in (*self.retired, *filter(None, [vars(self).get("session")])):
            await session.close()
        if "channel" in vars(self):
            await self.channel.close()
