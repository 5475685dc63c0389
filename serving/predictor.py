"""KServe's scikit-learn predictor as the transformer sees it: vectors there, cluster numbers back."""

import functools
from collections.abc import Container

import aiohttp
import grpc
import numpy as np
import orjson
from grpc_interceptor.exceptions import DeadlineExceeded
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput, ModelNotReady
from kserve.inference_client import InferenceGRPCClient
from kserve.model import append_forwardable_headers
from kserve.predictor_config import PredictorConfig


class PredictorUnavailable(ModelNotReady):
    """The predictor is down or answers with an error: 503, UNAVAILABLE in gRPC."""

    def __init__(self, reason: str):
        self.reason = self.error_msg = reason


class PredictorTimeout(DeadlineExceeded):
    """The predictor did not answer in time: 504, DEADLINE_EXCEEDED in gRPC."""


class Predictor:
    """A client of the predictor, in the protocol that it is configured for.

    Args:
        config: where it is, what it speaks, and how long it may take.
        model_name: the transformer's and the predictor's.
        clusters: the numbers that it may answer; None: any.
    """

    def __init__(self, config: PredictorConfig, model_name: str, clusters: Container[int] | None):
        self.config, self.model_name, self.clusters = config, model_name, clusters
        self.ask_over = {"v1": self.ask_over_v1, "v2": self.ask_over_v2, "grpc-v2": self.ask_over_grpc}[config.protocol]

    async def ask(self, vectors: np.ndarray, headers: dict | None) -> list[int]:
        """Let KServe's predictor find the cluster of each vector, shape (documents, dimensions).

        Raises:
            PredictorTimeout: it takes too long.
            PredictorUnavailable: it is down, or answers with anything but a cluster for each vector.
        """
        predictor = f"The predictor {self.config.predictor_host}"
        try:
            numbers = await self.ask_over(vectors, headers)
            expected = len(numbers) == len(vectors) and all(isinstance(number, int) for number in numbers)
        except TimeoutError as error:
            raise PredictorTimeout(f"{predictor} did not answer within {self.config.timeout} s.") from error
        except (aiohttp.ClientError, grpc.aio.AioRpcError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            raise PredictorUnavailable(f"{predictor} failed: {reason}") from error
        except (ValueError, LookupError, TypeError, InvalidInput) as error:
            raise PredictorUnavailable(f"{predictor} answered in no form that it should: {error!r}") from error
        if not expected or (self.clusters is not None and not all(number in self.clusters for number in numbers)):
            raise PredictorUnavailable(f"{predictor} answered clusters that clusters.json does not know, or too few.")
        return numbers

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
            answer = await response.read()
            if response.status == 504:
                raise TimeoutError
            if response.status != 200:
                raise aiohttp.ClientError(
                    f"{response.status} {response.reason} {answer[:300].decode(errors='replace')}"
                )
        return orjson.loads(answer)

    @functools.cached_property
    def session(self) -> aiohttp.ClientSession:
        # KServe's own REST client, made of httpx, takes seven times the CPU for a request.
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.config.timeout), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def ask_over_grpc(self, vectors: np.ndarray, headers: dict | None) -> list:
        tensor = InferInput("input-0", list(vectors.shape), "FP64")
        tensor.set_data_from_numpy(vectors)
        metadata = append_forwardable_headers(headers, {"request_type": "grpc_v2", "response_type": "grpc_v2"})
        try:
            answer = await self.grpc_client.infer(
                InferRequest(self.model_name, [tensor]), headers=tuple(metadata.items())
            )
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            raise
        return answer.outputs[0].as_numpy().tolist()

    @functools.cached_property
    def grpc_client(self) -> InferenceGRPCClient:
        # KServe's client waits up to two minutes before it tries again to reach a predictor that was down.
        return InferenceGRPCClient(
            self.config.predictor_host,
            use_ssl=self.config.use_ssl,
            timeout=self.config.timeout,
            retries=self.config.retries,
            channel_args=[("grpc.max_reconnect_backoff_ms", 1_000), ("grpc.max_receive_message_length", -1)],
        )

    async def close(self):
        if "session" in vars(self):
            await self.session.close()
        if "grpc_client" in vars(self):
            await self.grpc_client.close()
