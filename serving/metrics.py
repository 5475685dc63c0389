"""What Prometheus reads beside KServe's own metrics: with these an operator sees drift."""

import functools

import numpy as np
import prometheus_client

from serving.clusters import Clusters

DOCUMENTS = prometheus_client.Counter(
    "textclustering_documents",
    "Documents assigned to each cluster, -1: no known term",
    ["model_name", "cluster"],
)
SIMILARITY = prometheus_client.Histogram(
    "textclustering_similarity",
    "Cosine between a document and the centroid of its cluster",
    ["model_name"],
    buckets=[n / 20 for n in range(1, 20)],
)


class Metrics:
    """The metrics of one model; clusters are None where nothing describes them."""

    def __init__(self, model_name: str, clusters: Clusters | None):
        self.clusters = clusters
        self.documents_of = functools.cache(lambda number: DOCUMENTS.labels(model_name, number))
        self.similarity = SIMILARITY.labels(model_name)

    def observe(self, vectors: list[np.ndarray | None], numbers: list[int]):
        """Count the documents of each cluster and how near they are to it; a vector is None without a known term."""
        for vector, number in zip(vectors, numbers):
            self.documents_of(number).inc()
            if self.clusters is not None and vector is not None:
                self.similarity.observe(self.clusters.similarity(vector, number))
