"""A client of KServe's scikit-learn predictor: vectors in, cluster numbers out, over REST v1, REST v2 or gRPC."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

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

Headers = dict[str, str]


class PredictorUnavailable(ModelNotReady):
    """The predictor is down, returns errors, or holds a different model: 503, UNAVAILABLE in gRPC."""

    kind = "error"

    def __init__(self, reason: str) -> None:
        self.reason = self.error_msg = reason


class PredictorUnreachable(PredictorUnavailable):
    """Nothing answers at the predictor's address; as no request was processed, it can be repeated."""

    kind = "unreachable"


class DifferentModel(PredictorUnavailable):
    """The predictor holds a different model than the one that clusters.json describes."""

    kind = "different model"


class PredictorTimeout(DeadlineExceeded):
    """The predictor did not answer in time: 504, DEADLINE_EXCEEDED in gRPC."""


class PredictorClient:
    """A client of the predictor.

    Args:
        config: address, protocol and timeout.
        model_name: the same for transformer and predictor.
    """

    def __init__(self, config: PredictorConfig, model_name: str) -> None:
        self.config, self.model_name = config, model_name
        self.name = f"The predictor {config.predictor_host}"
        by_protocol = {"v1": self.predict_over_v1, "v2": self.predict_over_v2, "grpc-v2": self.predict_over_grpc}
        self.predict_over = by_protocol[config.protocol]
        self.retired: set[aiohttp.ClientSession] = set()  # may still have requests in flight

    async def predict(self, vectors: np.ndarray, headers: Headers | None = None) -> list[int]:
        """Request the cluster of each vector, shape (documents, dimensions).

        Raises:
            TimeoutError: a proxy on the way timed out.
            PredictorUnavailable: the predictor is down, or returned an error or a malformed response.
        """
        try:
            numbers = await self.predict_over(vectors, headers)
            valid = len(numbers) == len(vectors) and all(isinstance(number, int) for number in numbers)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:  # or killed while responding
            raise PredictorUnreachable(f"{self.name} failed: {error}") from error
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            unreachable = error.code() == grpc.StatusCode.UNAVAILABLE
            kind = PredictorUnreachable if unreachable else PredictorUnavailable
            raise kind(f"{self.name} failed: {error.code().name} {error.details()}") from error
        except aiohttp.ClientError as error:
            raise PredictorUnavailable(f"{self.name} failed: {error}") from error
        except (ValueError, LookupError, TypeError, InvalidInput) as error:
            raise PredictorUnavailable(f"{self.name} returned a malformed response: {error!r}") from error
        if not valid:
            raise PredictorUnavailable(f"{self.name} did not return one number per vector.")
        return list(numbers)

    async def probe(self) -> None:
        """Check the connection with a request without a body.

        Knative's activator holds requests back while no pod of the predictor is ready, and counts them as load that
        needs a pod. It drops one without a body when its client disconnects, but keeps one with a body for five
        minutes: Go's server detects a disconnected client only after reading the body (registerOnHitEOF in its
        net/http/server.go).

        Raises:
            TimeoutError, PredictorUnavailable: as predict.
        """
        if self.config.protocol == "grpc-v2":
            return  # HTTP/2 signals that a client disconnects
        try:
            async with self.session.get(self.config.predictor_base_url) as response:
                if response.status in (502, 503, 504):
                    raise await self.failure(response)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise PredictorUnreachable(f"{self.name} failed: {error}") from error
        except aiohttp.ClientError as error:
            raise PredictorUnavailable(f"{self.name} failed: {error}") from error

    # ----------------------------------------------------------------------------------------------------- REST

    async def predict_over_v1(self, vectors: np.ndarray, headers: Headers | None) -> Sequence[int]:
        answer = await self.post(f"/v1/models/{self.model_name}:predict", {"instances": vectors}, headers)
        return answer["predictions"]

    async def predict_over_v2(self, vectors: np.ndarray, headers: Headers | None) -> Sequence[int]:
        tensor = {"name": "input-0", "shape": vectors.shape, "datatype": "FP64", "data": vectors.ravel()}
        answer = await self.post(f"/v2/models/{self.model_name}/infer", {"inputs": [tensor]}, headers)
        return answer["outputs"][0]["data"]

    async def post(self, path: str, body: dict[str, Any], headers: Headers | None) -> Any:
        async with self.session.post(
            self.config.predictor_base_url + path,
            data=orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY),
            headers=append_forwardable_headers(headers, {"content-type": "application/json"}),
        ) as response:
            if response.status != 200:
                raise await self.failure(response)
            return orjson.loads(await response.read())

    async def failure(self, response: aiohttp.ClientResponse) -> Exception:
        """The exception for an error response."""
        if response.status == 504:
            return TimeoutError()
        body = (await response.read())[:300].decode(errors="replace")
        # Proxies return 502 and 503 when nothing listens behind them.
        kind = PredictorUnreachable if response.status in (502, 503) else PredictorUnavailable
        return kind(f"{self.name} failed: {response.status} {response.reason} {body}")

    @functools.cached_property
    def session(self) -> aiohttp.ClientSession:
        # KServe's REST client uses httpx, which takes seven times the CPU per request.
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    def renew_connections(self) -> None:
        """Make further requests use new connections.

        A connection stays with its pod. Knative lets a pod end after half a minute without requests, so a pod that is
        to be replaced would stay for five minutes beside its successor (drainer in knative/serving,
        pkg/queue/sharedmain), and an added pod would receive no requests.
        """

        async def close(session: aiohttp.ClientSession) -> None:
            await session.close()
            self.retired.discard(session)

        if session := vars(self).pop("session", None):
            self.retired.add(session)
            loop = asyncio.get_running_loop()
            loop.call_later(self.config.timeout + 1, lambda: loop.create_task(close(session)))

    # ----------------------------------------------------------------------------------------------------- gRPC

    async def predict_over_grpc(self, vectors: np.ndarray, headers: Headers | None) -> Sequence[int]:
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
            # The default is up to two minutes between attempts to reconnect.
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),  # a proxy in the environment is for addresses outside the cluster
        ]
        if self.config.use_ssl:
            return grpc.aio.secure_channel(host, grpc.ssl_channel_credentials(), options)
        return grpc.aio.insecure_channel(host, options)

    async def close(self) -> None:
        for session in (*self.retired, *filter(None, [vars(self).get("session")])):
            await session.close()
        if "channel" in vars(self):
            await self.channel.close()
