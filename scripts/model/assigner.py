"""A fitted model, arranged to assign many documents at a time.

It imports nothing of this project: on a Dask cluster it is sent to workers that have none of these files.
"""

from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.preprocessing import normalize

NO_CLUSTER = -1


class Assigned(NamedTuple):
    """Where documents belong; arrays of shape (documents,), NO_CLUSTER and nan for those without a known term."""

    clusters: np.ndarray
    similarities: np.ndarray  # cosine to the centroid of the cluster
    runners_up: np.ndarray  # the second nearest clusters; NO_CLUSTER where there is one cluster only
    runner_up_similarities: np.ndarray
    margins: np.ndarray  # how much farther the runner-up's centroid is than the cluster's


class TermSums(NamedTuple):
    """What the documents of each cluster are made of; both of shape (rows of centroids, terms)."""

    weights: csr_matrix  # sums of TF-IDF
    documents: csr_matrix  # numbers of documents that have the term


class Assigner:
    """The fitted model, arranged to assign many documents at a time; the answers are those of the service.

    Args:
        lsa: the fitted pipeline, projection.Lsa.
        centroids: row n is the centroid of cluster n, shape (rows, dimensions).
        numbers: the rows that are clusters; the others keep the place of a number that is not used.
    """

    def __init__(self, lsa, centroids: np.ndarray, numbers: list[int]):
        self.analyze, self.vocabulary, self.sublinear_tf = lsa.analyze, lsa.vocabulary, lsa.sublinear_tf
        self.projection, self.idf = lsa.projection, lsa.idf
        self.centroids = centroids
        self.half_squared_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
        self.unit_centroids = normalize(centroids)
        self.half_squared_norms[np.setdiff1d(np.arange(len(centroids)), numbers)] = np.inf

    def assign(self, documents: list[str]) -> Assigned:
        return self.nearest(normalize(self.weigh(documents) @ self.projection))

    def assign_and_sum(self, documents: list[str]) -> tuple[Assigned, TermSums]:
        weights = self.weigh(documents)
        assigned = self.nearest(normalize(weights @ self.projection))
        return assigned, self.sum_terms(normalize(weights @ diags(self.idf)), assigned.clusters)

    def weigh(self, documents: list[str]) -> csr_matrix:
        """Count the known terms and dampen the counts: weights before idf, of shape (documents, terms)."""
        terms = list(map(self.analyze, documents))
        ends = np.cumsum([0, *map(len, terms)])
        columns = np.fromiter(map(self.vocabulary.get, chain.from_iterable(terms), repeat(-1)), np.int32, ends[-1])
        known = columns >= 0
        ends = np.concatenate([[0], known.cumsum()])[ends]
        shape = len(documents), len(self.projection)
        weights = csr_matrix((np.ones(ends[-1]), columns[known], ends), shape=shape)
        weights.sum_duplicates()
        if self.sublinear_tf:
            weights.data = 1 + np.log(weights.data)
        return weights

    def nearest(self, vectors: np.ndarray) -> Assigned:
        """Find the nearest clusters of unit vectors, shape (documents, dimensions); zeros have no known term."""
        rows, known = np.arange(len(vectors)), vectors.any(axis=1)
        # |x - c|^2 / 2 = |x|^2 / 2 + |c|^2 / 2 - x . c, as in scikit-learn's k-means; here without |x|^2 / 2 = 1 / 2.
        distances = self.half_squared_norms - vectors @ self.centroids.T
        clusters = distances.argmin(axis=1)
        nearest = distances[rows, clusters]
        distances[rows, clusters] = np.inf
        runners_up = distances.argmin(axis=1)
        next_nearest = distances[rows, runners_up]
        margins = np.sqrt((1 + 2 * next_nearest).clip(0)) - np.sqrt((1 + 2 * nearest).clip(0))
        similarities = np.einsum("ij,ij->i", vectors, self.unit_centroids[clusters])
        runner_up_similarities = np.einsum("ij,ij->i", vectors, self.unit_centroids[runners_up])
        two = np.isfinite(next_nearest)
        return Assigned(
            np.where(known, clusters, NO_CLUSTER).astype(np.int32),
            np.where(known, similarities, np.nan),
            np.where(known & two, runners_up, NO_CLUSTER).astype(np.int32),
            np.where(known & two, runner_up_similarities, np.nan),
            np.where(known, margins, np.nan),
        )

    def sum_terms(self, weights: csr_matrix, clusters: np.ndarray) -> TermSums:
        """Sum TF-IDF, of shape (documents, terms), by cluster."""
        known = np.flatnonzero(clusters != NO_CLUSTER)
        shape = len(self.centroids), len(clusters)
        membership = csr_matrix((np.ones(len(known)), (clusters[known], known)), shape=shape)
        present = csr_matrix((np.ones(weights.nnz), weights.indices, weights.indptr), shape=weights.shape)
        return TermSums(membership @ weights, membership @ present)
