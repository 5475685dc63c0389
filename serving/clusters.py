"""The clusters by their numbers: which is nearest to a document, and why."""

from typing import Self

import numpy as np

from model.artefacts import ArtefactError
from model.projection import Lsa

NO_CLUSTER = -1


class Clusters:
    """Centroids by cluster number, and what clusters.json says of each.

    Args:
        centroids: row n is the centroid of cluster n, shape (rows, dimensions).
        summary: the content of clusters.json. Without it, every row is a cluster; with it, rows of numbers that it
            does not have are none: they keep the place of a number that is not used.

    Raises:
        ArtefactError: the summary has a cluster that has no row.
    """

    def __init__(self, centroids: np.ndarray, summary: dict | None = None):
        described = summary["clusters"] if summary else [{"cluster": n, "terms": []} for n in range(len(centroids))]
        self.described = {cluster["cluster"]: cluster for cluster in described}
        if max(self.described) >= len(centroids):
            raise ArtefactError(
                f"clusters.json describes a cluster {max(self.described)}, and the model has {len(centroids)}: "
                "they are from two training runs."
            )
        self.centroids = centroids
        self.half_squared_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
        self.unit_centroids = centroids / np.sqrt(2 * self.half_squared_norms).clip(1e-300)[:, np.newaxis]
        self.half_squared_norms[[n for n in range(len(centroids)) if n not in self.described]] = np.inf

    @classmethod
    def of_summary(cls, summary: dict) -> Self:
        """Take the centroids from clusters.json, where there is no model to take them from."""
        numbers = [cluster["cluster"] for cluster in summary["clusters"]]
        known = np.array([cluster["centroid"] for cluster in summary["clusters"]])
        centroids = np.zeros((max(numbers) + 1, known.shape[1]))
        centroids[numbers] = known
        return cls(centroids, summary)

    def __contains__(self, number: int) -> bool:
        return number in self.described

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Half the squared distances to the centroids, less what they have in common; shape (..., rows).

        |x - c|^2 / 2 = |x|^2 / 2 + |c|^2 / 2 - x . c, as in scikit-learn's k-means.
        """
        return self.half_squared_norms - vectors.dot(self.centroids.T)

    def nearest(self, vectors: np.ndarray) -> list[int]:
        """Find the number of the cluster that is nearest to each vector, shape (documents, dimensions)."""
        return self.distances(vectors).argmin(1).tolist()

    def are_nearest(self, vectors: np.ndarray, numbers: list[int]) -> bool:
        """Whether each number is that of the cluster nearest to its vector, but for rounding."""
        distances = self.distances(vectors)
        if distances.argmin(1).tolist() == numbers:
            return True
        if not all(number in self for number in numbers):
            return False
        chosen = distances[np.arange(len(numbers)), numbers]
        return bool((chosen <= distances.min(1) + 1e-9).all())

    def similarity(self, vector: np.ndarray, number: int) -> float:
        """The cosine between a unit vector and the centroid of a cluster."""
        return float(self.unit_centroids[number].dot(vector))

    def explain(self, lsa: Lsa, document: str, vector: np.ndarray | None, number: int) -> dict:
        """Explain which terms pulled a document to its cluster.

        A document is the sum of its terms, x = sum_t w_t p_t, with w_t the weight of term t (dampened frequency times
        idf) and p_t its row of the LSA projection. The cosine between the document and the centroid c of its cluster
        is therefore a sum over its terms, and the share of term t in it is

            w_t (p_t . c) / (|x| |c|)

        Shares are negative where a term pulls away; together they are the similarity.
        """
        if number == NO_CLUSTER:
            return {"cluster": NO_CLUSTER, "top_terms": [], "similarity": None, "runner_up": None, "shares": []}
        indices, weights = lsa.weigh(document)
        terms, projections = lsa.terms[indices], lsa.projection[indices]
        shares = weights * (projections @ self.unit_centroids[number]) / np.linalg.norm(weights @ projections)
        by_distance = np.argsort(self.distances(vector)).tolist()
        others = [other for other in by_distance if other != number and other in self]
        return {
            **self.nearness(vector, number),
            "runner_up": self.nearness(vector, others[0]) if others else None,
            "shares": [{"term": terms[i], "share": shares[i].item()} for i in np.argsort(-shares)],
        }

    def nearness(self, vector: np.ndarray, number: int) -> dict:
        cluster = self.described[number]
        return {
            "cluster": number,
            **({"name": cluster["name"]} if "name" in cluster else {}),
            "top_terms": [term for term, _ in cluster["terms"]],
            "similarity": self.similarity(vector, number),
        }
