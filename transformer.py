#!/usr/bin/env python
"""Serve the text clustering model on KServe: raw text in, cluster numbers out.

In front of KServe's scikit-learn predictor, as the transformer of an InferenceService:

    python transformer.py --model_name textclustering --predictor_host HOST [--predictor_protocol v1|v2|grpc-v2]

or on its own, with the predictor in the same process:

    python transformer.py --model_name textclustering --transformer-path transformer.joblib --model-path model.joblib

Clients speak KServe's v1 or v2 protocol, over REST or gRPC, whichever of them the predictor speaks. A document with
no known term belongs to no cluster: its answer is -1.
"""

import argparse
import asyncio
import functools
import gc
import logging
import math
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import aiohttp
import grpc
import kserve
import numpy as np
import orjson
import prometheus_client
import uvloop
from fastapi.exceptions import FastAPIDeprecationWarning, RequestValidationError
from fastapi.responses import JSONResponse
from grpc_interceptor.exceptions import DeadlineExceeded
from kserve import InferInput, InferRequest
from kserve.constants.constants import INFERENCE_CONTENT_LENGTH_HEADER
from kserve.errors import InvalidInput, ModelNotReady
from kserve.inference_client import InferenceGRPCClient
from kserve.model import append_forwardable_headers
from kserve.model_server import app
from kserve.predictor_config import PredictorConfig
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from kserve.utils.utils import get_predict_response
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer
from starlette.exceptions import HTTPException

sys.path.append(str(Path(__file__).with_name("scripts")))
import artefacts
from artefacts import ArtefactError

NO_CLUSTER = -1

log = logging.getLogger("kserve.transformer")  # below KServe's own logger, whose format and level it takes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        parents=[kserve.model_server.parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(predictor_request_timeout_seconds=10)  # KServe's 600 outlasts every client's patience
    group = parser.add_argument_group("text clustering")
    group.add_argument(
        "--transformer-path",
        type=Path,
        default=Path("/mnt/models/transformer.joblib"),
        help="the pipeline that text_clustering.py wrote; clusters.json is looked for beside it",
    )
    group.add_argument("--model-path", type=Path, help="the k-means model, to predict in this process")
    group.add_argument("--max-documents", type=int, default=1_024, help="documents in one request, at most")
    group.add_argument("--max-body-bytes", type=int, default=4 * 2**20, help="size of one request, at most")
    arguments = parser.parse_args()
    if bool(arguments.predictor_host) == bool(arguments.model_path):
        parser.error("give either --predictor_host (a predictor elsewhere) or --model-path (predict in this process)")
    if arguments.workers != 1:
        # KServe's workers are processes that share neither the metrics nor the settings made here.
        parser.error("--workers must be 1: run more replicas instead")
    return arguments


# ----------------------------------------------------------------------------------------------------- artefacts


def load_summary(transformer_path: Path) -> dict | None:
    """Read the clusters.json beside the transformer; None, with a warning, without one."""
    path = transformer_path.with_name(artefacts.CLUSTERS_FILE)
    if not path.is_file():
        log.warning("No %s: the artefacts are taken on trust and :explain is off", path)
        return None
    return artefacts.read_summary(path)


class Lsa:
    """The fitted pipeline (TF-IDF, SVD, normalizer), arranged in memory to transform a few documents quickly.

    scikit-learn's TruncatedSVD.transform copies its whole components matrix on every call, which takes a hundred
    times as long as to weigh and project a short document. Here a term's idf is multiplied into its row of the
    projection once, and the norm of the TF-IDF vector is left out because the normalizer cancels it.

    Raises:
        ArtefactError: the pipeline is not of these three steps.
    """

    def __init__(self, pipeline: Pipeline):
        steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else [pipeline]
        if [type(step) for step in steps] != [TfidfVectorizer, TruncatedSVD, Normalizer]:
            raise ArtefactError(
                "The transformer is not a pipeline of TfidfVectorizer, TruncatedSVD and Normalizer, "
                "but of: " + ", ".join(type(step).__name__ for step in steps) + "."
            )
        vectorizer, svd, normalizer = steps
        if vectorizer.binary or normalizer.norm != "l2":
            raise ArtefactError("Only TfidfVectorizer(binary=False) and Normalizer(norm='l2') are served.")
        self.analyze = vectorizer.build_analyzer()
        self.vocabulary = vectorizer.vocabulary_
        self.terms = vectorizer.get_feature_names_out()
        self.sublinear_tf = vectorizer.sublinear_tf
        self.dimensions = len(svd.components_)
        idf = vectorizer.idf_ if vectorizer.use_idf else 1.0
        self.projection = np.ascontiguousarray((svd.components_ * idf).T)  # one row a term, shape (terms, dimensions)

    def weigh(self, document: str) -> tuple[np.ndarray, np.ndarray]:
        """Count the known terms of a document and dampen the counts: term indices, and weights before idf."""
        counts = Counter(map(self.vocabulary.get, self.analyze(document)))
        counts.pop(None, None)
        weights = counts.values()
        if self.sublinear_tf:
            weights = [1 + math.log(count) if count > 1 else 1 for count in weights]
        return np.array(list(counts), dtype=np.intp), np.array(list(weights), dtype=np.float64)

    def project(self, document: str) -> np.ndarray | None:
        """Make the unit vector of a document, shape (dimensions,); None where it has no known term."""
        indices, weights = self.weigh(document)
        # dot, not @: on arrays this small it takes half the time.
        vector = weights.dot(self.projection.take(indices, 0))
        length = math.sqrt(vector.dot(vector))
        return vector / length if length else None


# --------------------------------------------------------------------------------------------------------- model


class Batch(NamedTuple):
    """The documents of one request on their way to an answer."""

    request: dict | InferRequest  # as it came, to answer in the same protocol
    documents: list[str]
    vectors: list[np.ndarray | None]  # unit vectors, shape (dimensions,); None: no known term


class BadRequest(InvalidInput):
    """The client is wrong; the message says where: 400, INVALID_ARGUMENT in gRPC."""


class PredictorUnavailable(ModelNotReady):
    """The predictor is down or answers with an error: 503, UNAVAILABLE in gRPC."""

    def __init__(self, reason: str):
        self.reason = self.error_msg = reason


class PredictorTimeout(DeadlineExceeded):
    """The predictor did not answer in time: 504, DEADLINE_EXCEEDED in gRPC."""


class TextClustering(kserve.Model):
    """The transformer of an InferenceService and, given a k-means model, its predictor too."""

    def __init__(self, arguments: argparse.Namespace):
        super().__init__(arguments.model_name)
        self.arguments = arguments
        self.kmeans = None
        self.centroids = None
        documents = prometheus_client.Counter(
            "textclustering_documents",
            "Documents assigned to each cluster, -1: no known term",
            ["model_name", "cluster"],
        )
        self.documents_of = functools.cache(lambda cluster: documents.labels(self.name, cluster))
        self.similarity = prometheus_client.Histogram(
            "textclustering_similarity",
            "Cosine between a document and the centroid of its cluster",
            ["model_name"],
            buckets=[n / 20 for n in range(1, 20)],
        ).labels(self.name)

    def load(self) -> bool:
        """Load the artefacts.

        Raises:
            ArtefactError: they are missing, or do not belong together or to this scikit-learn.
        """
        arguments = self.arguments
        self.summary = load_summary(arguments.transformer_path)
        if self.summary:
            artefacts.check_together(self.summary, arguments.model_path, arguments.transformer_path)
        self.lsa = Lsa(artefacts.load(arguments.transformer_path, self.summary))
        if arguments.model_path:
            self.kmeans = artefacts.load(arguments.model_path, self.summary)
            self.centroids = self.kmeans.cluster_centers_
        elif self.summary:
            self.centroids = np.array([cluster["centroid"] for cluster in self.summary["clusters"]])
        if self.centroids is not None:
            if self.centroids.shape[1:] != (self.lsa.dimensions,):
                raise ArtefactError(
                    f"The model has {self.centroids.shape[1]} dimensions and the transformer {self.lsa.dimensions}: "
                    "they are from two training runs."
                )
            self.half_squared_norms = np.einsum("ij,ij->i", self.centroids, self.centroids) / 2
            self.unit_centroids = self.centroids / np.sqrt(2 * self.half_squared_norms).clip(1e-300)[:, np.newaxis]
        self.ready = True
        return self.ready

    def preprocess(self, payload: dict | InferRequest, headers: dict | None = None) -> Batch:
        documents = read_documents(payload, self.arguments.max_documents)
        return Batch(payload, documents, [self.lsa.project(document) for document in documents])

    def validate(self, payload: Batch) -> Batch:
        return payload  # KServe's own check is for the predictor's protocol, before there was one in this process

    async def predict(self, batch: Batch, headers: dict | None = None) -> tuple[Batch, list[int]]:
        clusters = await self.assign(batch, headers)
        self.observe(batch, clusters)
        return batch, clusters

    async def explain(self, batch: Batch, headers: dict | None = None) -> dict:
        """Explain which terms pulled each document to its cluster.

        A document is the sum of its terms, x = sum_t w_t p_t, with w_t the weight of term t (dampened frequency times
        idf) and p_t its row of the LSA projection. The cosine between the document and the centroid c of its cluster
        is therefore a sum over its terms, and the share of term t in it is

            w_t (p_t . c) / (|x| |c|)

        Shares are negative where a term pulls away; together they are the similarity.

        Raises:
            BadRequest: there are no centroids to explain by, because clusters.json is missing.
        """
        if self.centroids is None:
            raise BadRequest("Explanations need clusters.json beside the transformer's joblib file.")
        clusters = await self.assign(batch, headers)
        return {"explanations": list(map(self.explain_document, batch.documents, batch.vectors, clusters))}

    def explain_document(self, document: str, vector: np.ndarray | None, cluster: int) -> dict:
        if cluster == NO_CLUSTER:
            return {"cluster": NO_CLUSTER, "top_terms": [], "similarity": None, "runner_up": None, "shares": []}
        indices, weights = self.lsa.weigh(document)
        terms, projections = self.lsa.terms[indices], self.lsa.projection[indices]
        shares = weights * (projections @ self.unit_centroids[cluster]) / np.linalg.norm(weights @ projections)
        others = [other for other in np.argsort(self.distances(vector)).tolist() if other != cluster]
        return {
            **self.nearness(vector, cluster),
            "runner_up": self.nearness(vector, others[0]) if others else None,
            "shares": [{"term": terms[i], "share": shares[i].item()} for i in np.argsort(-shares)],
        }

    def nearness(self, vector: np.ndarray, cluster: int) -> dict:
        return {
            "cluster": cluster,
            "top_terms": [term for term, _ in self.summary["clusters"][cluster]["terms"]] if self.summary else [],
            "similarity": float(self.unit_centroids[cluster] @ vector),
        }

    def postprocess(self, result: tuple[Batch, list[int]] | dict, headers: dict | None = None):
        if isinstance(result, dict):
            return result  # an explanation
        batch, clusters = result
        return get_predict_response(batch.request, np.array(clusters, np.int32), self.name)

    async def assign(self, batch: Batch, headers: dict | None) -> list[int]:
        """Find the cluster of each document, NO_CLUSTER where no term is known."""
        known = np.array([vector for vector in batch.vectors if vector is not None])
        if not len(known):
            nearest = []
        elif self.kmeans:
            nearest = self.distances(known).argmin(1).tolist()
        else:
            nearest = await self.ask_predictor(known, headers)
        nearest_of_known = iter(nearest)
        return [NO_CLUSTER if vector is None else next(nearest_of_known) for vector in batch.vectors]

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Half the squared distances to the centroids, less what they have in common; shape (..., clusters).

        |x - c|^2 / 2 = |x|^2 / 2 + |c|^2 / 2 - x . c, as in scikit-learn's k-means.
        """
        return self.half_squared_norms - vectors.dot(self.centroids.T)

    async def ask_predictor(self, vectors: np.ndarray, headers: dict | None) -> list[int]:
        """Let KServe's predictor find the clusters.

        Raises:
            PredictorTimeout: it takes too long.
            PredictorUnavailable: it is down, or answers with anything but a cluster for each vector.
        """
        predictor = f"The predictor {self.predictor_config.predictor_host}"
        over_grpc = self.predictor_config.protocol == "grpc-v2"
        try:
            clusters = await (self.ask_over_grpc if over_grpc else self.ask_over_rest)(vectors, headers)
            expected = len(clusters) == len(vectors) and all(isinstance(cluster, int) for cluster in clusters)
        except TimeoutError as error:
            raise PredictorTimeout(f"{predictor} did not answer within {self.predictor_config.timeout} s.") from error
        except (aiohttp.ClientError, grpc.aio.AioRpcError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            raise PredictorUnavailable(f"{predictor} failed: {reason}") from error
        except (ValueError, LookupError, TypeError, InvalidInput) as error:
            raise PredictorUnavailable(f"{predictor} answered in no form that it should: {error!r}") from error
        if not expected or (
            self.centroids is not None and not 0 <= min(clusters) <= max(clusters) < len(self.centroids)
        ):
            raise PredictorUnavailable(f"{predictor} answered clusters that clusters.json does not know, or too few.")
        return clusters

    async def ask_over_rest(self, vectors: np.ndarray, headers: dict | None) -> list:
        config = self.predictor_config
        if config.protocol == "v1":
            path, body = f"/v1/models/{self.name}:predict", {"instances": vectors}
        else:
            tensor = {"name": "input-0", "shape": vectors.shape, "datatype": "FP64", "data": vectors.ravel()}
            path, body = f"/v2/models/{self.name}/infer", {"inputs": [tensor]}
        async with self.session.post(
            config.predictor_base_url + path,
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
        answer = orjson.loads(answer)
        return answer["predictions"] if config.protocol == "v1" else answer["outputs"][0]["data"]

    async def ask_over_grpc(self, vectors: np.ndarray, headers: dict | None) -> list:
        tensor = InferInput("input-0", list(vectors.shape), "FP64")
        tensor.set_data_from_numpy(vectors)
        try:
            answer = await self._grpc_predict(InferRequest(self.name, [tensor]), headers)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from error
            raise
        return answer.outputs[0].as_numpy().tolist()

    @functools.cached_property
    def session(self) -> aiohttp.ClientSession:
        # KServe's own REST client, made of httpx, takes seven times the CPU for a request.
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self.predictor_config.timeout), cookie_jar=aiohttp.DummyCookieJar()
        )

    def stop(self):
        super().stop()
        if "session" in vars(self):
            asyncio.get_running_loop().create_task(self.session.close())

    @property
    def _grpc_client(self) -> InferenceGRPCClient:
        # KServe's client waits up to two minutes before it tries again to reach a predictor that was down.
        if self._grpc_client_stub is None:
            self._grpc_client_stub = InferenceGRPCClient(
                self.predictor_config.predictor_host,
                use_ssl=self.predictor_config.use_ssl,
                timeout=self.predictor_config.timeout,
                retries=self.predictor_config.retries,
                channel_args=[("grpc.max_reconnect_backoff_ms", 1_000), ("grpc.max_receive_message_length", -1)],
            )
        return self._grpc_client_stub

    def observe(self, batch: Batch, clusters: list[int]):
        """Count the documents of each cluster and how near they are to it: with these an operator sees drift."""
        for vector, cluster in zip(batch.vectors, clusters):
            self.documents_of(cluster).inc()
            if self.centroids is not None and vector is not None:
                self.similarity.observe(self.unit_centroids[cluster].dot(vector))

    def get_input_types(self) -> list[dict]:
        return [{"name": "input-0", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict]:
        return [{"name": "output-0", "datatype": "INT32", "shape": [-1]}]


# -------------------------------------------------------------------------------------------------------- request


def read_documents(payload: dict | InferRequest, max_documents: int) -> list[str]:
    """Read the documents of a v1 request ({"instances": [...]}) or a v2 request (one BYTES tensor).

    Raises:
        BadRequest: they are not there, not text, empty, or too many.
    """
    if isinstance(payload, InferRequest):
        instances, name = read_tensor(payload), "inputs[0].data"
    elif isinstance(payload, dict) and isinstance(payload.get("instances"), list):
        instances, name = payload["instances"], "instances"
    else:
        raise BadRequest('Expected {"instances": ["a text", ...]}: a list named "instances" is missing.')
    if not instances:
        raise BadRequest(f'"{name}" is empty: expected at least one text.')
    if len(instances) > max_documents:
        raise BadRequest(f'"{name}" has {len(instances)} texts, and {max_documents} are allowed in one request.')
    return [read_document(instance, f"{name}[{n}]") for n, instance in enumerate(instances)]


def read_document(instance, name: str) -> str:
    if isinstance(instance, list):
        if len(instance) != 1:
            raise BadRequest(f"{name} is a list of {len(instance)} items: expected a text, or a list with one text.")
        instance = instance[0]
    if isinstance(instance, bytes):
        try:
            instance = instance.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"{name} is not UTF-8: {error}.") from error
    if not isinstance(instance, str):
        kind = JSON_KINDS.get(type(instance), type(instance).__name__)
        raise BadRequest(f"{name} is {kind}: expected a text, or a list with one text.")
    if not instance or instance.isspace():
        raise BadRequest(f"{name} has no text in it.")
    return instance


JSON_KINDS = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


def read_tensor(request: InferRequest) -> list:
    """Read the elements of a v2 request's only tensor, BYTES of shape [documents] or [documents, 1].

    Raises:
        BadRequest: there is another number of tensors, or it has another type, shape or length.
    """
    if len(request.inputs) != 1:
        raise BadRequest(f"Expected one input tensor with the texts, got {len(request.inputs)}.")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise BadRequest(f"The input tensor is {tensor.datatype}: expected BYTES, one text an element.")
    try:
        elements = tensor.as_numpy().ravel().tolist() if tensor.data in (None, []) else tensor.data
    except Exception as error:  # struct.error, ValueError: whatever a broken tensor provokes
        raise BadRequest(f"The input tensor cannot be read: {error}.") from error
    if list(tensor.shape) not in ([len(elements)], [len(elements), 1]):
        raise BadRequest(f"The input tensor has shape {list(tensor.shape)}: expected [{len(elements)}].")
    return elements


class JsonDataPlane(DataPlane):
    """KServe's data plane, but a body is JSON whatever its Content-Type says, and an unreadable body is a 400.

    KServe itself hands a body with another Content-Type to the model as bytes (`curl -d` sends
    application/x-www-form-urlencoded), and answers 500 where its parser trips over a malformed tensor.
    """

    def decode(self, body, headers, protocol_version="v1", model_name=None):
        try:
            if isinstance(body, bytes) and INFERENCE_CONTENT_LENGTH_HEADER not in headers and "ce-id" not in headers:
                if protocol_version == "v2":
                    body = InferenceRequest.model_validate_json(body)
                else:
                    return self.decode_cloudevent(orjson.loads(body))
            if isinstance(body, InferenceRequest):
                # Names come back in the answer, which half a surrogate pair ("\\ud800" in JSON) would break.
                "".join([body.id or "", *(tensor.name for tensor in body.inputs + (body.outputs or []))]).encode()
            return super().decode(body, headers, protocol_version, model_name)
        except Exception as error:
            raise BadRequest(f"The request cannot be read: {error}") from error


class FixedRepository(ModelRepositoryExtension):
    """One model for the life of the process: KServe's repository API would let any client unload it."""

    async def load(self, model_name: str):
        raise BadRequest("This server serves one model, which can be neither loaded nor unloaded.")

    unload = load


class BodyLimit:
    """ASGI middleware: a body over the limit is a 400, and is not read into memory."""

    def __init__(self, app, limit: int):
        self.app, self.limit = app, limit

    def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            length = dict(scope["headers"]).get(b"content-length")
            if length is None or int(length) > self.limit:
                receive = self.limited(receive)
        return self.app(scope, receive, send)

    def limited(self, receive):
        received = 0

        async def limited_receive():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(400, f"The request is larger than {self.limit} bytes: send fewer texts at a time.")
            return message

        return limited_receive


def add_error_handlers(app):
    """Answer every error as {"error": "..."}, and log it in a line: KServe would log a traceback for each."""

    def answer(request, status: int, message: str) -> JSONResponse:
        log.warning("%s %s: %d %s", request.method, request.url.path, status, message)
        return JSONResponse({"error": message}, status)

    async def malformed_v2(request, error):
        return answer(request, 400, "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()))

    async def http_error(request, error):
        return answer(request, error.status_code, error.detail)

    async def bad_request(request, error):
        return answer(request, 400, error.reason)

    async def predictor_unavailable(request, error):
        return answer(request, 503, error.reason)

    async def predictor_timeout(request, error):
        return answer(request, 504, error.details)

    app.add_exception_handler(RequestValidationError, malformed_v2)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(BadRequest, bad_request)
    app.add_exception_handler(PredictorUnavailable, predictor_unavailable)
    app.add_exception_handler(PredictorTimeout, predictor_timeout)


# ----------------------------------------------------------------------------------------------------------- main


def main():
    arguments = parse_arguments()
    kserve.logging.configure_logging(arguments.log_config_file)
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # KServe's ORJSONResponse, twice a request
    model = TextClustering(arguments)
    try:
        model.load()
    except ArtefactError as error:
        sys.exit(f"transformer.py: {error}")
    server = kserve.ModelServer(
        predictor_config=PredictorConfig(
            predictor_host=arguments.predictor_host,
            predictor_protocol=arguments.predictor_protocol,
            predictor_use_ssl=arguments.predictor_use_ssl,
            predictor_request_timeout_seconds=arguments.predictor_request_timeout_seconds,
            predictor_request_retries=arguments.predictor_request_retries,
            predictor_health_check=arguments.enable_predictor_health_check,
        )
    )
    server.dataplane = JsonDataPlane(server.registered_models)
    server.model_repository_extension = FixedRepository(server.registered_models)
    app.add_middleware(BodyLimit, limit=arguments.max_body_bytes)
    add_error_handlers(app)
    if arguments.event_loop != "asyncio":
        # KServe's --help promises uvloop, but its servers run on whatever loop the current policy makes.
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(asyncio.new_event_loop())  # KServe asks for one before it runs another
    gc.freeze()  # what is loaded now stays: the garbage collector need not look through it while serving
    server.start([model])


if __name__ == "__main__":
    main()
