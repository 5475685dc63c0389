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
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import kserve
import numpy as np
from kserve import InferRequest
from kserve.model_server import app
from kserve.predictor_config import PredictorConfig
from kserve.utils.utils import get_predict_response
from starlette.middleware.cors import CORSMiddleware

sys.path.append(str(Path(__file__).with_name("scripts")))
from model import artefacts
from model.artefacts import ArtefactError
from model.projection import Lsa
from serving import kserve_overrides
from serving.bodies import Bodies
from serving.clusters import NO_CLUSTER, Clusters
from serving.documents import BadRequest, read_documents
from serving.metrics import Metrics
from serving.predictor import Predictor, PredictorUnavailable
from serving.server import Server, use_uvloop

LARGE_BATCH = 2**16  # characters

log = logging.getLogger("kserve.transformer")  # below KServe's own logger, whose format and level it takes


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        parents=[kserve.model_server.parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # KServe's 600 s outlast every client's patience, and its 8 MiB of gRPC are not the limit of REST.
    parser.set_defaults(predictor_request_timeout_seconds=10, grpc_max_receive_message_length=None)
    group = parser.add_argument_group("text clustering")
    group.add_argument(
        "--transformer-path",
        type=Path,
        default=Path("/mnt/models/transformer.joblib"),
        help="the pipeline that text_clustering.py wrote; clusters.json is looked for beside it",
    )
    group.add_argument("--model-path", type=Path, help="the k-means model, to predict in this process")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all, so that others can ask")
    group.add_argument(
        "--cors-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages of this origin, such as https://example.org, ask from a browser; can be repeated",
    )
    group.add_argument("--max-documents", type=int, default=1_024, help="documents in one request, at most")
    group.add_argument("--max-body-bytes", type=int, default=4 * 2**20, help="size of one request, at most")
    arguments = parser.parse_args()
    if bool(arguments.predictor_host) == bool(arguments.model_path):
        parser.error("give either --predictor_host (a predictor elsewhere) or --model-path (predict in this process)")
    if arguments.workers != 1:
        # KServe's workers are processes that share neither the metrics nor the settings made here.
        parser.error("--workers must be 1: run more replicas instead")
    for origin in arguments.cors_origin:
        if not re.fullmatch(r"https?://[^/]+|\*", origin):
            parser.error(
                f"--cors-origin {origin}: expected an origin such as https://example.org, without a path, or *"
            )
    return arguments


class Batch(NamedTuple):
    """The documents of one request on their way to an answer."""

    request: dict | InferRequest  # as it came, to answer in the same protocol
    documents: list[str]
    vectors: list[np.ndarray | None]  # unit vectors, shape (dimensions,); None: no known term


class TextClustering(kserve.Model):
    """The transformer of an InferenceService and, given a k-means model, its predictor too."""

    def __init__(self, arguments: argparse.Namespace, predictor_config: PredictorConfig):
        super().__init__(arguments.model_name)
        self.max_documents = arguments.max_documents
        clusters_path = arguments.transformer_path.with_name(artefacts.CLUSTERS_FILE)
        summary = load_summary(clusters_path)
        self.load_artefacts(summary, arguments.transformer_path, arguments.model_path)
        version = artefacts.described_version(summary, clusters_path) if summary else ""
        self.metrics = Metrics(self.name, version, self.clusters, summary)
        self.predictor = None
        if not arguments.model_path:
            self.predictor = Predictor(predictor_config, self.name, self.clusters, self.lsa.dimensions)
        self.metrics.show_ready(lambda: not (self.predictor and (self.predictor.not_ready or self.predictor.trouble)))
        # One thread: where all hold Python's lock, more of them would only take turns with the event loop more often.
        self.large_batches = ThreadPoolExecutor(1, "large-batches")
        self.ready = True

    def load_artefacts(self, summary: dict | None, transformer_path: Path, model_path: Path | None):
        """Load the pipeline, and the clusters from the model or else from clusters.json.

        Raises:
            ArtefactError: they are missing, or do not belong together or to this scikit-learn.
        """
        if summary:
            artefacts.check_together(summary, model_path, transformer_path)
        self.lsa = Lsa(artefacts.load(transformer_path, summary))
        if model_path:
            self.clusters = Clusters(artefacts.load(model_path, summary).cluster_centers_, summary)
        else:
            self.clusters = Clusters.of_summary(summary) if summary else None
        if self.clusters and self.clusters.centroids.shape[1] != self.lsa.dimensions:
            raise ArtefactError(
                f"The model has {self.clusters.centroids.shape[1]} dimensions and the transformer "
                f"{self.lsa.dimensions}: they are from two training runs."
            )

    async def preprocess(self, payload: dict | InferRequest, headers: dict | None = None) -> Batch:
        documents = read_documents(payload, self.max_documents)
        vectors = await self.for_each(documents, self.lsa.project, documents)
        return Batch(payload, documents, vectors)

    async def for_each(self, documents: list[str], work: Callable, *arguments: list) -> list:
        """Work on each document; large batches in a thread, so that small ones need not wait for them."""
        if sum(map(len, documents)) < LARGE_BATCH:
            return list(map(work, *arguments))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.large_batches, lambda: list(map(work, *arguments)))

    def validate(self, payload: Batch) -> Batch:
        return payload  # KServe's own check is for the predictor's protocol, before there was one in this process

    async def predict(self, batch: Batch, headers: dict | None = None) -> tuple[Batch, list[int]]:
        numbers = await self.assign(batch, headers)
        self.metrics.observe(batch.vectors, numbers)
        return batch, numbers

    async def explain(self, batch: Batch, headers: dict | None = None) -> dict:
        """Explain which terms pulled each document to its cluster.

        Raises:
            BadRequest: there are no centroids to explain by, because clusters.json is missing.
        """
        if self.clusters is None:
            raise BadRequest("Explanations need clusters.json beside the transformer's joblib file.")
        numbers = await self.assign(batch, headers)
        explain = functools.partial(self.clusters.explain, self.lsa)
        explanations = await self.for_each(batch.documents, explain, batch.documents, batch.vectors, numbers)
        return {"explanations": explanations}

    def postprocess(self, result: tuple[Batch, list[int]] | dict, headers: dict | None = None):
        if isinstance(result, dict):
            return result  # an explanation
        batch, numbers = result
        return get_predict_response(batch.request, np.array(numbers, np.int32), self.name)

    async def assign(self, batch: Batch, headers: dict | None) -> list[int]:
        """Find the cluster of each document, NO_CLUSTER where no term is known."""
        known = np.array([vector for vector in batch.vectors if vector is not None])
        if not len(known):
            nearest = []
        elif self.predictor:
            nearest = await self.predictor.ask(known, headers)
        else:
            nearest = self.clusters.nearest(known)
        nearest_of_known = iter(nearest)
        return [NO_CLUSTER if vector is None else next(nearest_of_known) for vector in batch.vectors]

    def check_ready(self):
        """Raises PredictorUnavailable where the predictor is not known to have the right model."""
        if self.predictor and self.predictor.not_ready:
            raise PredictorUnavailable(self.predictor.not_ready)

    async def watch(self):
        if self.predictor:
            await self.predictor.watch()

    async def close(self):
        if self.predictor:
            await self.predictor.close()

    def get_input_types(self) -> list[dict]:
        return [{"name": "input-0", "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict]:
        return [{"name": "output-0", "datatype": "INT32", "shape": [-1]}]


def load_summary(path: Path) -> dict | None:
    """Read clusters.json; None, with a warning, without one."""
    if not path.is_file():
        log.warning("No %s: the artefacts are taken on trust and :explain is off", path)
        return None
    return artefacts.read_summary(path)


def main():
    arguments = parse_arguments()
    kserve.logging.configure_logging(arguments.log_config_file)
    if not arguments.log_config_file:
        # Four lines for a request that went well, which a node writes to disk again. Others are told all the same.
        for name in ("uvicorn.access", "kserve.trace"):
            logging.getLogger(name).setLevel(logging.WARNING)
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
    server = Server(
        predictor_config,
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port if arguments.enable_grpc else None,
        grpc_options={
            "grpc.max_receive_message_length": arguments.grpc_max_receive_message_length or arguments.max_body_bytes,
            "grpc.max_send_message_length": arguments.grpc_max_send_message_length,
        },
    )
    kserve_overrides.add_error_handlers(app)
    kserve_overrides.refuse_other_methods(app)
    app.add_middleware(Bodies, limit=arguments.max_body_bytes)
    if arguments.cors_origin:
        app.add_middleware(
            CORSMiddleware, allow_origins=arguments.cors_origin, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    if arguments.event_loop != "asyncio":
        use_uvloop()
    gc.freeze()  # what is loaded now stays: the garbage collector need not look through it while serving
    server.start([model])


if __name__ == "__main__":
    main()
