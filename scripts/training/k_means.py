"""k-means in the LSA space: many starts, refinement by regression, and recombination of the best clusterings.

Every clustering has a k-means objective, the documents' mean cosine to the centroid of their cluster in the LSA space,
which spherical k-means maximises.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csc_matrix
from sklearn.cluster import kmeans_plusplus
from sklearn.metrics import adjusted_rand_score

from model.projection import unit_rows
from training.progress import shown_on_terminal

RECOMBINATIONS = 24
REFINEMENTS = 3
SIZE_PENALTY = 0.1
CANDIDATES = 30
NEARLY_THE_SAME = 0.98  # adjusted Rand index


class Clustering(NamedTuple):
    objective: float
    labels: np.ndarray  # the cluster of each document


def run_k_means(
    lsa_vectors: np.ndarray, start: np.ndarray | None, clusters: int, runs: int, generator: np.random.Generator
) -> list[Clustering]:
    """Run k-means from random starts, or from the given one.

    Args:
        lsa_vectors: unit rows of shape (documents, dimensions).
        start: the cluster of each document, -1 for none.

    Returns:
        The clusterings, the best objective first.
    """
    if start is None:
        return run_from_random_starts(lsa_vectors, clusters, runs, generator)
    return extend_start(lsa_vectors, start, clusters, runs, generator)


def run_from_random_starts(
    lsa_vectors: np.ndarray, clusters: int, runs: int, generator: np.random.Generator
) -> list[Clustering]:
    """Run k-means from k-means++ starts; the best objective comes first."""
    scatter, clusterings = factorise_scatter(lsa_vectors), []
    for run in shown_on_terminal("k-means runs", range(runs)):
        # The leading dimensions alone make a better start: the others are mostly noise to k-means.
        leading = unit_rows(lsa_vectors[:, : clusters * (2 + run % 2)])
        centroids, _ = kmeans_plusplus(leading, clusters, random_state=int(generator.integers(2**31)))
        labels = spherical_k_means(leading, nearest_centroids(leading, centroids), clusters)
        clusterings.append(refine(lsa_vectors, scatter, labels, clusters))
    return sorted(clusterings, key=lambda clustering: -clustering.objective)


def extend_start(
    lsa_vectors: np.ndarray, start: np.ndarray, clusters: int, runs: int, generator: np.random.Generator
) -> list[Clustering]:
    """Run k-means from given clusters, with new ones added where there are fewer than wanted.

    Returns:
        The clusterings, the best objective first. Without clusters to add, one run is made: all would be the same.
    """
    scatter, leading, clusterings = factorise_scatter(lsa_vectors), unit_rows(lsa_vectors[:, : clusters * 2]), []
    given = start.max() + 1
    for _ in range(runs if given < clusters else 1):
        centroids = unit_rows(cluster_sums(leading, start, given))
        for _ in range(clusters - given):
            centroids = np.vstack([centroids, new_centroid(leading, start < 0, centroids, generator)])
        labels = nearest_centroids(leading, centroids)
        if given == clusters:
            labels = np.where(start < 0, labels, start)
        clusterings.append(refine(lsa_vectors, scatter, labels, clusters))
    return sorted(clusterings, key=lambda clustering: -clustering.objective)


def new_centroid(
    vectors: np.ndarray, eligible: np.ndarray, centroids: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Choose, of a few eligible documents, the one that raises the objective most as a new centroid: greedy k-means++.

    Args:
        eligible: a mask of shape (documents,); where it is false everywhere, all documents are eligible.
    """
    places = np.flatnonzero(eligible) if eligible.any() else np.arange(len(vectors))
    candidates = vectors[generator.choice(places, min(len(places), CANDIDATES), replace=False)]
    gains = vectors @ candidates.T - (vectors @ centroids.T).max(axis=1, keepdims=True)
    return candidates[gains.clip(0).sum(axis=0).argmax()]


def recombine(
    lsa_vectors: np.ndarray, clusterings: list[Clustering], clusters: int, generator: np.random.Generator
) -> list[Clustering]:
    """Recombine clusterings: a child with a better objective than the worst clustering replaces it."""
    scatter = factorise_scatter(lsa_vectors)
    for _ in shown_on_terminal("k-means recombinations", range(RECOMBINATIONS)):
        mother, father = (clusterings[i].labels for i in generator.choice(len(clusterings), 2, replace=False))
        centroids = recombined_centroids(lsa_vectors, mother, father, clusters, generator)
        child = refine(lsa_vectors, scatter, nearest_centroids(lsa_vectors, centroids), clusters)
        # Without this check, near-copies would soon be all that is left to recombine.
        is_new = child.objective > clusterings[-1].objective and all(
            adjusted_rand_score(child.labels, other.labels) < NEARLY_THE_SAME for other in clusterings
        )
        if is_new:
            clusterings = sorted([*clusterings[:-1], child], key=lambda clustering: -clustering.objective)
    return clusterings


def recombined_centroids(
    vectors: np.ndarray, mother: np.ndarray, father: np.ndarray, clusters: int, generator: np.random.Generator
) -> np.ndarray:
    """Pair the centroids of two clusterings by cosine and take one of each pair at random.

    After Fränti et al., "Genetic algorithms for large-scale clustering problems", The Computer Journal 40, 1997.
    """
    mothers, fathers = (unit_rows(cluster_sums(vectors, labels, clusters)) for labels in (mother, father))
    _, partners = linear_sum_assignment(mothers @ fathers.T, maximize=True)
    return np.where(generator.random((clusters, 1)) < 0.5, mothers, fathers[partners])


def refine(vectors: np.ndarray, scatter: tuple[np.ndarray, bool], labels: np.ndarray, clusters: int) -> Clustering:
    """Adaptive dimension reduction: repeat k-means along the directions that separate the clusters found so far.

    k-means finds clusters by the directions of largest variance, of which many have nothing to do with topics. A ridge
    regression learns better ones: Ding and Li, "Adaptive dimension reduction using discriminant analysis and k-means
    clustering", ICML 2007.

    Args:
        scatter: the result of factorise_scatter for the vectors.
    """
    for _ in range(REFINEMENTS):
        sizes = np.bincount(labels, minlength=clusters).clip(1)
        directions = cho_solve(scatter, (cluster_sums(vectors, labels, clusters) / np.sqrt(sizes)[:, np.newaxis]).T)
        labels = spherical_k_means(unit_rows(vectors @ directions.astype(vectors.dtype)), labels, clusters)
    return Clustering(objective(vectors, labels, clusters), labels)


def objective(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> float:
    """The mean cosine of unit vectors to the centroid of their cluster."""
    return float(np.linalg.norm(cluster_sums(vectors, labels, clusters), axis=1).sum() / len(vectors))


def factorise_scatter(vectors: np.ndarray) -> tuple[np.ndarray, bool]:
    """Factorise the matrix of the ridge regression in refine, whose penalty is the mean eigenvalue (Cholesky)."""
    scatter = vectors.T @ vectors
    scatter[np.diag_indices_from(scatter)] += np.trace(scatter) / len(scatter)
    return cho_factor(scatter)


def spherical_k_means(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """k-means on unit vectors with a penalty on large clusters, which otherwise grow because they are near everything.

    The penalty is averaged with that of the previous round, or two clusters would exchange the same documents forever.
    """
    penalty = np.zeros(clusters, dtype=vectors.dtype)
    for _ in range(20):
        sizes = np.bincount(labels, minlength=clusters).clip(1)
        penalty = (penalty + SIZE_PENALTY * np.log(sizes * clusters / len(labels)).astype(vectors.dtype)) / 2
        labels, previous = nearest_centroids(vectors, cluster_sums(vectors, labels, clusters), penalty), labels
        if np.mean(labels != previous) < 0.002:
            break
    return labels


def nearest_centroids(vectors: np.ndarray, centroids: np.ndarray, penalty: np.ndarray | float = 0) -> np.ndarray:
    """The cluster of each unit vector: highest cosine to the centroid, minus the penalty of the cluster."""
    return (vectors @ unit_rows(centroids).T - penalty).argmax(axis=1)


def cluster_sums(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Sum the vectors of each cluster, without those labelled -1: shape (clusters, dimensions)."""
    members = np.flatnonzero(labels >= 0)
    ones, one_each = np.ones(len(members), dtype=vectors.dtype), np.arange(len(members) + 1)
    belongs = csc_matrix((ones, labels[members], one_each), shape=(clusters, len(members)))
    return belongs @ (vectors if len(members) == len(vectors) else vectors[members])
