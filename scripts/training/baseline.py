"""The baseline: how unseen documents of the training corpus would be distributed over the clusters, and how similar.

Monitoring compares live traffic with it. The training documents score higher similarity than unseen documents, because
the space was rotated to separate their clusters best. So the baseline is cross-validated in five folds: each document
is measured in a space and against centroids that were fitted without it. Median cosine to the centroid, on 20
Newsgroups, by number of training posts:

    posts     training posts    cross-validated    unseen posts
    15,077              0.973              0.964                 0.963
     2,000              0.970              0.930                 0.923
       500              0.983              0.876                 0.861
"""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from training.k_means import cluster_sums
from training.self_training import membership_directions

FOLDS = 5
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MIN_SIMILARITIES = tuple(percent / 100 for percent in range(5, 100, 5))


def measure_baseline(
    weights: csr_matrix, labels: np.ndarray, clusters: int
) -> tuple[dict[str, dict[str, float]], list[dict]]:
    """Measure cluster shares and similarities of the training documents as if they were unseen.

    Args:
        weights: TF-IDF, unit rows of shape (documents, terms).
        labels: the clusters of the documents, shape (documents,).

    Returns:
        Over all documents, "similarity" and "rejected", and for each cluster, "share" and "similarity": as in
        clusters.json.
    """
    assigned, similarities = cross_validate(weights.astype(np.float32), labels, clusters)
    members = [assigned == number for number in range(clusters)]
    of_clusters = [{"share": float(own.mean()), "similarity": quantiles(similarities[own])} for own in members]
    return {"similarity": quantiles(similarities), "rejected": rejected_shares(similarities)}, of_clusters


def cross_validate(weights: csr_matrix, labels: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Assign each document with a model fitted on the other folds.

    Returns:
        Clusters and cosines to their centroids, both of shape (documents,).
    """
    folds = np.arange(len(labels)) % FOLDS
    assigned, similarities = np.empty(len(labels), dtype=int), np.empty(len(labels))
    for fold in range(FOLDS):
        others, left_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        directions = membership_directions(weights[others], labels[others], clusters)
        centroids = normalize(cluster_sums(normalize(weights[others] @ directions), labels[others], clusters))
        cosines = normalize(weights[left_out] @ directions) @ centroids.T
        assigned[left_out], similarities[left_out] = cosines.argmax(axis=1), cosines.max(axis=1)
    return assigned, similarities


def quantiles(similarities: np.ndarray) -> dict[str, float]:
    """Quantiles by name, as in clusters.json; empty without documents."""
    if not len(similarities):
        return {}
    return {str(q): round(float(value), 4) for q, value in zip(QUANTILES, np.quantile(similarities, QUANTILES))}


def rejected_shares(similarities: np.ndarray) -> dict[str, float]:
    """The share of the documents that each of some values of --min-similarity would reject, as in clusters.json."""
    return {str(least): round(float(np.mean(similarities < least)), 4) for least in MIN_SIMILARITIES}
