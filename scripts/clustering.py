"""Find the clusters: LSA and k-means."""

import logging

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

ATTEMPTS = 12
REFINEMENTS = 3

log = logging.getLogger("text_clustering")


def fit_clusters(
    weights: csr_matrix, clusters: int, lsa: int, minibatch: bool, seed: int, verbose: bool
) -> tuple[TruncatedSVD, KMeans, np.ndarray, np.ndarray]:
    """Fit LSA and k-means, and turn the LSA space so that it shows the clusters best.

    k-means finds clusters by the directions in which the documents differ most, of which many have nothing to do
    with topics. So a ridge regression learns the directions that tell the clusters found so far apart, k-means runs
    again along those, and so on: adaptive dimension reduction, Ding and Li, "Adaptive dimension reduction using
    discriminant analysis and k-means clustering", ICML 2007. No label takes part. The directions are a linear map of
    the LSA space, so they are stored as the components of the SVD: one for each cluster.

    Args:
        weights: TF-IDF, shape (documents, terms).

    Returns:
        The SVD with its turned components, shape (clusters, terms); the k-means model; the vectors that it was trained
        on, unit rows of shape (documents, clusters); and the same documents before the LSA space was turned, unit rows
        of shape (documents, lsa).
    """
    svd = TruncatedSVD(lsa, random_state=seed)
    lsa_vectors = normalize(svd.fit_transform(weights))

    # Where k-means ends depends on where it starts, so the best of some attempts is taken. Their inertias are of
    # different spaces; the tightness of the clusters in the LSA space that they share also goes best with the labels.
    attempts = []
    for number in range(ATTEMPTS):
        labels = attempt(lsa_vectors, clusters, seed * ATTEMPTS + number, verbose)
        attempts.append((tightness(lsa_vectors, labels, clusters), labels))
        log.info("k-means, attempt %d of %d: tightness %.4f", number + 1, ATTEMPTS, attempts[-1][0])
    labels = max(attempts, key=lambda pair: pair[0])[1]

    svd.components_ = discriminative_directions(lsa_vectors, labels, clusters).T @ svd.components_
    vectors = normalize(svd.transform(weights))
    start = means(vectors, labels, clusters)
    if minibatch:
        # The start is good already: nothing is gained by moving a small cluster to a random document.
        model = MiniBatchKMeans(
            clusters, init=start, n_init=1, batch_size=2_048, reassignment_ratio=0, random_state=seed, verbose=verbose
        )
    else:
        model = KMeans(clusters, init=start, n_init=1, random_state=seed, verbose=verbose)
    return svd, model.fit(vectors), vectors, lsa_vectors


def attempt(lsa_vectors: np.ndarray, clusters: int, seed: int, verbose: bool) -> np.ndarray:
    """One run of k-means and the adaptive dimension reduction; returns the cluster of each document."""
    # The leading dimensions alone make a better start: the others are mostly noise to k-means.
    leading = normalize(lsa_vectors[:, : clusters * 3 // 2])
    labels = KMeans(clusters, n_init=3, random_state=seed, verbose=verbose).fit(leading).labels_
    for _ in range(REFINEMENTS):
        vectors = normalize(lsa_vectors @ discriminative_directions(lsa_vectors, labels, clusters))
        labels = KMeans(clusters, init=means(vectors, labels, clusters), n_init=1, verbose=verbose).fit(vectors).labels_
    return labels


def tightness(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> float:
    """Mean cosine of unit vectors to the centroid of their cluster: what spherical k-means maximises."""
    centroids = normalize(means(vectors, labels, clusters))
    return float(np.einsum("ij,ij->i", vectors, centroids[labels]).mean())


def discriminative_directions(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Ridge regression of cluster membership on the vectors; the penalty is the mean eigenvalue of their scatter.

    Returns:
        Directions of shape (dimensions, clusters).
    """
    scatter = vectors.T @ vectors
    scatter += np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    membership = np.eye(clusters)[labels]
    return np.linalg.solve(scatter, vectors.T @ (membership / np.sqrt(membership.sum(axis=0).clip(1))))


def means(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    membership = np.eye(clusters)[labels]
    return membership.T @ vectors / membership.sum(axis=0).clip(1)[:, np.newaxis]
