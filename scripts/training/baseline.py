"""What is normal: to which clusters documents like those of the training go, and how near they are to them.

A service is held against it. The documents of the training itself look nearer than any later one can be, because the
space was turned to show their clusters best. So each document is measured in a space and against centroids that were
fitted without it: in five parts, each of them measured by what the other four teach. Median cosine to the centroid, on 20 Newsgroups, of models
made from so many posts:

    posts     of the training   left out in turn   of posts never seen
    15,077              0.973              0.964                 0.963
     2,000              0.970              0.930                 0.923
       500              0.983              0.876                 0.861
"""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from training.clustering import sums
from training.self_training import membership_directions

PARTS = 5
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def measure_baseline(weights: csr_matrix, labels: np.ndarray, clusters: int) -> tuple[dict, list[dict]]:
    """Measure what the documents of the training look like to a service that has never seen them.

    Args:
        weights: TF-IDF, unit rows of shape (documents, terms).
        labels: the clusters of the documents, shape (documents,).

    Returns:
        Quantiles of the cosine over all documents, by name; and of each cluster "share" and "similarity", as they are
        in clusters.json.
    """
    assigned, similarities = leave_out(weights.astype(np.float32), labels, clusters)
    members = [assigned == number for number in range(clusters)]
    of_clusters = [{"share": float(own.mean()), "similarity": quantiles(similarities[own])} for own in members]
    return quantiles(similarities), of_clusters


def leave_out(weights: csr_matrix, labels: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Assign each document, and tell its cosine to the centroid, by what the documents of the other parts teach.

    Returns:
        Clusters and similarities, both of shape (documents,).
    """
    part = np.arange(len(labels)) % PARTS
    assigned, similarities = np.empty(len(labels), dtype=int), np.empty(len(labels))
    for number in range(PARTS):
        others, left_out = np.flatnonzero(part != number), np.flatnonzero(part == number)
        directions = membership_directions(weights[others], labels[others], clusters)
        centroids = normalize(sums(normalize(weights[others] @ directions), labels[others], clusters))
        cosines = normalize(weights[left_out] @ directions) @ centroids.T
        assigned[left_out], similarities[left_out] = cosines.argmax(axis=1), cosines.max(axis=1)
    return assigned, similarities


def quantiles(similarities: np.ndarray) -> dict:
    """Quantiles as clusters.json has them: cosines by name of the quantile, none where there are no documents."""
    if not len(similarities):
        return {}
    return {str(q): round(float(value), 4) for q, value in zip(QUANTILES, np.quantile(similarities, QUANTILES))}
