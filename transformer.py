#!/usr/bin/env python
"""Serve the text clustering model on KServe: raw text in, cluster numbers out.

In front of KServe's scikit-learn predictor, as the transformer of an InferenceService:

    python transformer.py --model_name textclustering --predictor_host HOST [--predictor_protocol v1|v2|grpc-v2]

or on its own, with the predictor in the same process:

    python transformer.py --model_name textclustering --transformer-path transformer.joblib --model-path model.joblib

Clients use KServe's v1 or v2 protocol, over REST or gRPC, independent of the predictor's protocol. The answer for a
document without an in-vocabulary term is -1: it belongs to no cluster. So is, with --min-similarity, the answer for one
that is too far from all clusters.
"""

import argparse
import asyncio
import gc
import logging
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import kserve
import numpy as np
from kserve import InferOutput, InferRequest, InferResponse
from kserve.model_server import app
from kserve.predictor_config import PredictorConfig
from kserve.utils.numpy_codec import from_np_dtype
from kserve.utils.utils import get_predict_response
from starlette.middleware.cors import CORSMiddleware

sys.path.append(str(Path(__file__).with_name("scripts")))
from command_line import similarity
from model import artefacts
from model.artefacts import ArtefactError, Summary
from model.clusters import NO_CLUSTER, Clusters, described_clusters, reject_distant
from model.projection import Lsa, Weights
from serving import kserve_overrides
from serving.bodies import BodyDecoder
from serving.documents import BadRequest, read_documents, read_top
from serving.explanations import Explainer
from serving.log_privacy import hide_request_texts
from serving.metrics import Metrics
from serving.page import add_page
from serving.predictor import Predictor
from serving.predictor_client import Headers, PredictorUnavailable
from serving.server import Server, use_uvloop

LARGE_BATCH = 2**16  # characters
NO_CENTROIDS = "Explanations and nearest clusters need clusters.json beside the transformer's joblib file."

log = logging.getLogger("kserve.transformer")  # inherits format and level from KServe's logger


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        parents=[kserve.model_server.parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # KServe's defaults are 600 s, longer than clients wait, and 8 MiB, which differs from the limit of REST.
    parser.set_defaults(predictor_request_timeout_seconds=10, grpc_max_receive_message_length=None)
    add_options(parser.add_argument_group("text clustering"))
    arguments = parser.parse_args()
    if problem := invalid(arguments):
        parser.error(problem)
    return arguments


def invalid(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, in one line."""
    if not re.fullmatch(r"[\w.-]+", arguments.model_name, re.ASCII):
        # It is a part of paths such as /v1/models/NAME:predict.
        return f"--model_name {arguments.model_name}: only letters, digits, '.', '_' and '-' are allowed"
    if bool(arguments.predictor_host) == bool(arguments.model_path):
        return "give either --predictor_host (a predictor elsewhere) or --model-path (predict in this process)"
    if arguments.predictor_host and not re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?", arguments.predictor_host):
        return (
            f"--predictor_host {arguments.predictor_host}: expected HOST or HOST:PORT, without http:// and without a "
            "path; --predictor_use_ssl true selects https"
        )
    if arguments.workers != 1:
        # KServe's workers are processes that share neither the metrics nor the settings of this one.
        return "--workers must be 1: run more replicas instead"
    for origin in arguments.cors_origin:
        if not re.fullmatch(r"https?://[^/]+|\*", origin):
            return f"--cors-origin {origin}: expected an origin such as https://example.org, without a path, or *"
    return None


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--transformer-path",
        type=Path,
        default=Path("/mnt/models/transformer.joblib"),
        help="the pipeline written by text_clustering.py, with clusters.json beside it",
    )
    group.add_argument("--model-path", type=Path, help="the k-means model, to predict in this process")
    group.add_argument(
        "--min-similarity",
        type=similarity,
        metavar="COSINE",
        help="answer -1 where the nearest cluster is less similar than this, such as 0.7 (default: never)",
    )
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; :: for all, IPv4 and IPv6")
    group.add_argument(
        "--no-bypass",
        action="store_true",
        help="fail requests while the predictor fails, instead of answering from the centroids in clusters.json",
    )
    group.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="allow browser requests from this origin, such as https://example.org; can be repeated",
    )
    group.add_argument("--max-documents", type=int, default=1_024, help="maximum number of documents per request")
    group.add_argument("--max-body-bytes", type=int, default=4 * 2**20, help="maximum size of a request")
    group.add_argument("--no-ui", dest="ui", action="store_false", help="do not serve the page at /ui")


class Batch(NamedTuple):
    """The documents of one request."""

    request: dict[str, Any] | InferRequest  # as received, to answer in the same protocol
    characters: int
    text_hashes: list[int]
    weights: Weights
    vectors: np.ndarray  # unit vectors, shape (documents, dimensions); zero: no in-vocabulary term
    top: int  # how many of the nearest clusters are requested as well


class TextClustering(kserve.Model):
    """The transformer of an InferenceService and, given a k-means model, its predictor too."""

    def __init__(self, arguments: argparse.Namespace, predictor_config: PredictorConfig) -> None:
        super().__init__(arguments.model_name)
        self.max_documents = arguments.max_documents
        clusters_path = arguments.transformer_path.with_name(artefacts.CLUSTERS_FILE)
        summary = load_summary(clusters_path)
        self.lsa, self.clusters = load_model(summary, arguments.transformer_path, arguments.model_path)
        self.min_similarity = arguments.min_similarity
        if self.min_similarity and not self.clusters:
            raise ArtefactError(f"--min-similarity needs the centroids in {clusters_path}, which is not there.")
        self.explainer = Explainer(self.lsa, self.clusters, summary, self.min_similarity) if self.clusters else None
        self.summary = summary
        self.version = artefacts.described_version(summary, clusters_path) if summary else ""
        self.metrics = Metrics(self.name, self.version, self.clusters, summary, self.min_similarity)
        self.predictor = None
        if not arguments.model_path:
            self.predictor = Predictor(
                *(predictor_config, self.name, self.clusters, self.lsa.dimensions),
                bypass=not arguments.no_bypass,
                count_bypass=self.metrics.count_bypass,
            )
        self.metrics.show_ready(self.gets_requests)
        # One thread: more would only compete with the event loop for the interpreter lock.
        self.large_batches = ThreadPoolExecutor(1, "large-batches")
        self.ready = True

    async def preprocess(self, payload: dict[str, Any] | InferRequest, headers: Headers | None = None) -> Batch:
        documents, top = read_documents(payload, self.max_documents), read_top(payload)
        if top and self.explainer is None:
            raise BadRequest(NO_CENTROIDS)
        characters = sum(map(len, documents))
        weights, vectors = await self.run(characters, self.weigh_and_project, documents)
        # Start and length suffice to recognize a repeated text, and are faster to hash.
        text_hashes = [hash(text[:200]) ^ len(text) for text in documents]
        return Batch(payload, characters, text_hashes, weights, vectors, top)

    def weigh_and_project(self, documents: list[str]) -> tuple[Weights, np.ndarray]:
        weights = self.lsa.weigh(documents)
        return weights, self.lsa.project(weights)

    async def run(self, characters: int, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run work on a batch; on a large one in a thread, so that small requests do not wait for it."""
        if characters < LARGE_BATCH:
            return work(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.large_batches, work, *arguments)

    def validate(self, payload: Batch) -> Batch:
        return payload  # KServe's own check expects the predictor's protocol

    async def predict(self, batch: Batch, headers: Headers | None = None) -> tuple[Batch, np.ndarray]:
        numbers = await self.assign(batch.vectors, headers)
        similarities = self.clusters.similarities(batch.vectors, numbers) if self.clusters else None
        self.metrics.observe(numbers, similarities, batch.text_hashes)
        return batch, numbers if similarities is None else reject_distant(numbers, similarities, self.min_similarity)

    async def assign(self, vectors: np.ndarray, headers: Headers | None) -> np.ndarray:
        """The cluster of each vector, shape (documents, dimensions); NO_CLUSTER for zero vectors."""
        known = vectors.any(axis=1)
        numbers = np.full(len(vectors), NO_CLUSTER, np.int32)
        if self.predictor and known.any():
            numbers[known] = await self.predictor.predict(vectors[known], headers)
        elif self.clusters:
            numbers[known] = self.clusters.nearest(vectors[known])
        return numbers

    async def explain(self, batch: Batch, headers: Headers | None = None) -> dict[str, Any]:
        """Explain which terms pulled each document to its cluster.

        Raises:
            BadRequest: there are no centroids because clusters.json is missing.
        """
        if self.explainer is None:
            raise BadRequest(NO_CENTROIDS)
        numbers = await self.assign(batch.vectors, headers)
        explain = self.explainer.explain
        return {
            "explanations": await self.run(batch.characters, explain, batch.weights, batch.vectors, numbers, batch.top)
        }

    def postprocess(
        self, result: tuple[Batch, np.ndarray] | dict[str, Any], headers: Headers | None = None
    ) -> dict[str, Any] | InferResponse:
        if isinstance(result, dict):
            return result  # an explanation
        batch, numbers = result
        response = get_predict_response(batch.request, numbers, self.name)
        if self.explainer and batch.top and isinstance(batch.request, InferRequest):
            for name, values in self.explainer.nearest_tensors(batch.vectors, batch.top).items():
                tensor = InferOutput(name, list(values.shape), from_np_dtype(values.dtype))
                tensor.set_data_from_numpy(values, binary_data=batch.request.use_binary_outputs)
                response.outputs.append(tensor)
        return response

    def check_ready(self) -> None:
        """Raises PredictorUnavailable until the predictor has passed a check."""
        if self.predictor and self.predictor.not_ready:
            raise PredictorUnavailable(self.predictor.not_ready)

    def gets_requests(self) -> bool:
        predictor = self.predictor
        return not predictor or not (predictor.not_ready or (predictor.failure and not predictor.bypass))

    async def watch(self) -> None:
        if self.predictor:
            await self.predictor.watch()

    async def close(self) -> None:
        if self.predictor:
            await self.predictor.close()

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "input-0", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [{"name": "output-0", "datatype": "INT32", "shape": [-1]}]


def load_summary(path: Path) -> Summary | None:
    """Read clusters.json; None, with a warning, if it does not exist."""
    if not path.is_file():
        log.warning("No %s: the model files are not checked and :explain is off", path)
        return None
    return artefacts.read_summary(path)


def load_model(summary: Summary | None, transformer_path: Path, model_path: Path | None) -> tuple[Lsa, Clusters | None]:
    """Load the pipeline, and the clusters from the model or else from clusters.json.

    Raises:
        ArtefactError: a file is missing, or belongs to another training run or scikit-learn version.
    """
    if summary:
        artefacts.check_together(summary, model_path, transformer_path)
    lsa = Lsa(artefacts.load_pipeline(transformer_path, summary))
    centroids = artefacts.load(model_path, summary).cluster_centers_ if model_path else None
    if summary:
        clusters = described_clusters(summary, centroids)
    elif centroids is not None:
        clusters = Clusters(centroids, list(range(len(centroids))))
    else:
        return lsa, None
    if clusters.centroids.shape[1] != lsa.dimensions:
        raise ArtefactError(
            f"The model has {clusters.centroids.shape[1]} dimensions and the transformer {lsa.dimensions}: "
            "they are from two training runs."
        )
    return lsa, clusters


def main() -> None:
    arguments = parse_arguments()
    kserve.logging.configure_logging(arguments.log_config_file)
    if not arguments.log_config_file:
        # They log four lines per successful request.
        for name in ("uvicorn.access", "kserve.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)
    hide_request_texts()
    kserve_overrides.silence_deprecations()
    predictor_config = PredictorConfig(
        predictor_host=arguments.predictor_host,
        predictor_protocol=arguments.predictor_protocol,
        predictor_use_ssl=arguments.predictor_use_ssl,
        predictor_request_timeout_seconds=arguments.predictor_request_timeout_seconds,
        predictor_request_retries=arguments.predictor_request_retries,
        predictor_health_check=arguments.enable_predictor_health_check,
    )
    try:
        model = TextClustering(arguments, predictor_config)
    except ArtefactError as error:
        sys.exit(f"transformer.py: {error}")
    configure_app(arguments)
    if arguments.ui:
        limits = {"documents": arguments.max_documents, "bytes": arguments.max_body_bytes}
        report = arguments.transformer_path.with_name("report.html")
        add_page(app, model.name, model.version, model.summary, report, limits)
    if arguments.event_loop != "asyncio":
        use_uvloop()
    gc.freeze()  # the garbage collector need not scan the model while serving
    server(arguments, predictor_config).start([model])


def configure_app(arguments: argparse.Namespace) -> None:
    app.add_middleware(kserve_overrides.HeadAsGet)
    app.add_middleware(BodyDecoder, limit=arguments.max_body_bytes)
    if arguments.cors_origin:
        app.add_middleware(
            CORSMiddleware, allow_origins=arguments.cors_origin, allow_methods=["GET", "POST"], allow_headers=["*"]
        )


def server(arguments: argparse.Namespace, predictor_config: PredictorConfig) -> Server:
    return Server(
        predictor_config,
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port if arguments.enable_grpc else None,
        grpc_options={
            "grpc.max_receive_message_length": arguments.grpc_max_receive_message_length or arguments.max_body_bytes,
            "grpc.max_send_message_length": arguments.grpc_max_send_message_length,
        },
    )


if __name__ == "__main__":
    main()
