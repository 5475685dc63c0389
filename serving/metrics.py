"""What Prometheus reads beside KServe's own metrics: what the service is asked now, and what was normal in its training.

The rules in provision/prometheus/drift.yml hold the one against the other. No metric has a word of a request in it.
"""

import functools
from collections.abc import Callable

import numpy as np
import prometheus_client

from serving.clusters import NO_CLUSTER, Clusters

MODEL = ["model_name", "version"]
DOCUMENTS = prometheus_client.Counter(
    "textclustering_documents", "Documents assigned to each cluster, -1: no known term", [*MODEL, "cluster"]
)
SIMILARITY = prometheus_client.Histogram(
    "textclustering_similarity",
    "Cosine between a document and the centroid of its cluster",
    [*MODEL, "cluster"],
    buckets=[0.1, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
)
READY = prometheus_client.Gauge("textclustering_ready", "1 if the model should get requests, else 0", MODEL)
TRAINED_SHARE = prometheus_client.Gauge(
    "textclustering_trained_share",
    "Share of each cluster in the documents of the training, -1: no known term",
    [*MODEL, "cluster", "about"],
)
TRAINED_SIMILARITY = prometheus_client.Gauge(
    "textclustering_trained_similarity",
    "Quantiles of the similarity in the training, of each cluster and, without a cluster, of all",
    [*MODEL, "cluster", "quantile"],
)
TRAINED_DOCUMENTS = prometheus_client.Gauge(
    "textclustering_trained_documents", "Documents that the model was fitted on, and its shares come from", MODEL
)
prometheus_client.disable_created_metrics()  # when each of them was first used: as many lines again


class Metrics:
    """The metrics of one model; clusters and summary are None where nothing describes them."""

    def __init__(self, model_name: str, version: str, clusters: Clusters | None, summary: dict | None):
        self.model = model = (model_name, version)
        self.clusters = clusters
        self.documents_of = functools.cache(lambda number: DOCUMENTS.labels(*model, number))
        self.similarity_of = functools.cache(lambda number: SIMILARITY.labels(*model, number))
        if summary:
            show_training(model, summary)
            # Counters that are there from the start: Prometheus does not see a first document that brings its counter.
            for number in [NO_CLUSTER, *clusters.described]:
                self.documents_of(number)

    def show_ready(self, is_ready: Callable[[], bool]):
        READY.labels(*self.model).set_function(is_ready)

    def observe(self, vectors: list[np.ndarray | None], numbers: list[int]):
        """Count the documents of each cluster and how near they are to it; a vector is None without a known term."""
        for vector, number in zip(vectors, numbers):
            self.documents_of(number).inc()
            if self.clusters is not None and vector is not None:
                self.similarity_of(number).observe(self.clusters.similarity(vector, number))


def show_training(model: tuple[str, str], summary: dict):
    """Set the gauges of the training, of which clusters.json tells."""
    baseline, clusters = summary["baseline"], summary["clusters"]
    TRAINED_DOCUMENTS.labels(*model).set(summary["settings"]["sample"])
    TRAINED_SHARE.labels(*model, NO_CLUSTER, "no known term").set(baseline["unknown"])
    for cluster in clusters:
        about = cluster.get("name") or " ".join(term for term, _ in cluster["terms"][:3])
        share = (1 - baseline["unknown"]) * cluster["share"]
        TRAINED_SHARE.labels(*model, cluster["cluster"], about).set(share)
    for number, similarity in [("", baseline["similarity"]), *((c["cluster"], c["similarity"]) for c in clusters)]:
        for quantile, cosine in similarity.items():
            TRAINED_SIMILARITY.labels(*model, number, quantile).set(cosine)
