"""The clusters of a model: nearest centroids and similarities."""

import numpy as np

from model.artefacts import ArtefactError, Summary
from model.projection import unit_rows

NO_CLUSTER = -1


class Clusters:
    """Centroids by cluster number.

    Args:
        centroids: row n is the centroid of cluster n, shape (rows, dimensions).
        numbers: the cluster numbers; the other rows are placeholders for unused numbers and never nearest.
    """

    def __init__(self, centroids: np.ndarray, numbers: list[int]) -> None:
        self.centroids, self.numbers = centroids, numbers
        self.unit_centroids = unit_rows(centroids)
        self.half_squared_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
        self.half_squared_norms[np.setdiff1d(np.arange(len(centroids)), numbers)] = np.inf

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Half the squared distances to the centroids, less |x|² / 2; shape (documents, rows).

        |x - c|² / 2 = |x|² / 2 + |c|² / 2 - x . c, as in scikit-learn's k-means.
        """
        return self.half_squared_norms - vectors @ self.centroids.T

    def nearest(self, vectors: np.ndarray) -> np.ndarray:
        """The number of the cluster nearest to each vector; shape (documents,)."""
        return self.distances(vectors).argmin(axis=1)

    def ranking(self, vectors: np.ndarray, top: int) -> np.ndarray:
        """The numbers of the clusters nearest to each vector, the nearest first; shape (documents, top).

        If there are fewer clusters, there are fewer columns.
        """
        order = self.distances(vectors).argsort(axis=1, kind="stable")
        return order[:, : min(top, len(self.numbers))].astype(np.int32)

    def similarities(self, vectors: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The cosine between each unit vector and the centroid of the cluster given for it; shape (documents,)."""
        return np.einsum("ij,ij->i", vectors, self.unit_centroids[numbers])


def reject_distant(numbers: np.ndarray, similarities: np.ndarray, least: float | None) -> np.ndarray:
    """Replace the cluster numbers of documents that are less similar to the centroid than `least` by NO_CLUSTER.

    Args:
        numbers, similarities: shape (documents,).
        least: a cosine; None: nothing is replaced.
    """
    return numbers if least is None else np.where(similarities < least, np.int32(NO_CLUSTER), numbers)


def described_clusters(summary: Summary, centroids: np.ndarray | None = None) -> Clusters:
    """The clusters that clusters.json describes.

    Args:
        centroids: of the k-means model; None: those in clusters.json.

    Raises:
        ArtefactError: clusters.json describes a cluster that the model does not have.
    """
    numbers = [cluster["cluster"] for cluster in summary["clusters"]]
    if centroids is None:
        described = np.array([cluster["centroid"] for cluster in summary["clusters"]])
        centroids = np.zeros((max(numbers) + 1, described.shape[1]))
        centroids[numbers] = described
    if max(numbers) >= len(centroids):
        raise ArtefactError(
            f"clusters.json describes cluster {max(numbers)}, but the model has {len(centroids)}: "
            "they are from two training runs."
        )
    return Clusters(centroids, numbers)
