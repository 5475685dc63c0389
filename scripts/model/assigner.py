"""Assign batches of documents to clusters, with similarities, runners-up and sums of terms.

dask_cluster.py sends this class to workers that have none of these files, together with what it uses of model/.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.preprocessing import normalize

from model.clusters import NO_CLUSTER, Clusters
from model.projection import Lsa


class Assigned(NamedTuple):
    """Assignments; arrays of shape (documents,), NO_CLUSTER and nan for documents without an in-vocabulary term."""

    clusters: np.ndarray
    similarities: np.ndarray  # cosine to the centroid of the cluster
    runners_up: np.ndarray  # the second nearest clusters; NO_CLUSTER if there is only one cluster
    runner_up_similarities: np.ndarray
    margins: np.ndarray  # distance to the runner-up's centroid less the distance to the cluster's
    nearest: np.ndarray  # the nearest clusters, the nearest first, and their similarities: shape (documents, top)
    nearest_similarities: np.ndarray  # both are meaningless without an in-vocabulary term


class TermSums(NamedTuple):
    """The terms of each cluster's documents; both of shape (rows of centroids, terms)."""

    weights: csr_matrix  # sums of TF-IDF
    documents: csr_matrix  # numbers of documents that contain the term


class Assigner:
    """A fitted model that assigns batches of documents; its answers are those of the service.

    Args:
        lsa: the fitted pipeline.
        centroids: row n is the centroid of cluster n, shape (rows, dimensions).
        numbers: the cluster numbers; the other rows are placeholders for unused numbers.
        top: how many of the nearest clusters to find beside the two nearest.
    """

    def __init__(self, lsa: Lsa, centroids: np.ndarray, numbers: list[int], top: int = 0) -> None:
        self.lsa, self.clusters, self.top = lsa, Clusters(centroids, numbers), top

    def assign(self, documents: list[str]) -> Assigned:
        return self.nearest(self.lsa.transform(documents))

    def assign_and_sum(self, documents: list[str]) -> tuple[Assigned, TermSums]:
        weights = self.lsa.weigh(documents)
        assigned = self.nearest(self.lsa.project(weights))
        tfidf = normalize(weights.matrix(len(self.lsa.idf)) @ diags(self.lsa.idf))
        return assigned, self.sum_terms(tfidf, assigned.clusters)

    def nearest(self, vectors: np.ndarray) -> Assigned:
        """Find the two nearest clusters of unit vectors, shape (documents, dimensions); zero: no in-vocabulary term."""
        rows, known = np.arange(len(vectors)), vectors.any(axis=1)
        distances = self.clusters.distances(vectors)
        numbers = distances.argmin(axis=1)
        nearest = distances[rows, numbers]
        distances[rows, numbers] = np.inf
        runners_up = distances.argmin(axis=1)
        next_nearest = distances[rows, runners_up]
        # |x - c| from half the squared distance less |x|² / 2, where |x| = 1
        margins = np.sqrt((1 + 2 * next_nearest).clip(0)) - np.sqrt((1 + 2 * nearest).clip(0))
        two = np.isfinite(next_nearest)
        ranking = self.clusters.ranking(vectors, self.top) if self.top else np.empty((len(vectors), 0), np.int32)
        return Assigned(
            np.where(known, numbers, NO_CLUSTER).astype(np.int32),
            np.where(known, self.clusters.similarities(vectors, numbers), np.nan),
            np.where(known & two, runners_up, NO_CLUSTER).astype(np.int32),
            np.where(known & two, self.clusters.similarities(vectors, runners_up), np.nan),
            np.where(known, margins, np.nan),
            ranking,
            np.array([self.clusters.similarities(vectors, column) for column in ranking.T]).T,
        )

    def sum_terms(self, weights: csr_matrix, numbers: np.ndarray) -> TermSums:
        """Sum TF-IDF, shape (documents, terms), by the clusters of the documents, shape (documents,)."""
        known = np.flatnonzero(numbers != NO_CLUSTER)
        shape = len(self.clusters.centroids), len(numbers)
        membership = csr_matrix((np.ones(len(known)), (numbers[known], known)), shape=shape)
        present = csr_matrix((np.ones(weights.nnz), weights.indices, weights.indptr), shape=weights.shape)
        return TermSums(membership @ weights, membership @ present)
