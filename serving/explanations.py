"""Explain which terms pulled a document to its cluster."""

from typing import Any

import numpy as np

from model.artefacts import Summary
from model.clusters import NO_CLUSTER, Clusters
from model.projection import Lsa, Weights

UNKNOWN = {"cluster": NO_CLUSTER, "top_terms": [], "similarity": None, "runner_up": None, "shares": []}


class Explainer:
    """Explains assignments.

    Args:
        summary: the content of clusters.json, for names and top terms; None: there are none.
        min_similarity: documents that are less similar to their nearest cluster are rejected; None: there are none.
    """

    def __init__(
        self, lsa: Lsa, clusters: Clusters, summary: Summary | None, min_similarity: float | None = None
    ) -> None:
        self.lsa, self.clusters, self.min_similarity = lsa, clusters, min_similarity
        self.described = {cluster["cluster"]: cluster for cluster in summary["clusters"]} if summary else {}

    def explain(self, weights: Weights, vectors: np.ndarray, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Explain which terms pulled each document to its cluster.

        Args:
            weights: from Lsa.weigh.
            vectors: shape (documents, dimensions).
            numbers: of the nearest clusters or NO_CLUSTER, shape (documents,).
        """
        return [
            self.explain_document(weights.columns[row], weights.values[row], vector, number)
            for row, vector, number in zip(weights.rows(), vectors, numbers.tolist())
        ]

    def explain_document(
        self, columns: np.ndarray, weights: np.ndarray, vector: np.ndarray, number: int
    ) -> dict[str, Any]:
        """Split the similarity of a document to its cluster into shares of its terms.

        A document is the sum of its terms, x = sum_t w_t p_t, where w_t is the weight of term t (dampened frequency
        times idf) and p_t its row of the LSA projection. The cosine between the document and the centroid c of its
        cluster is therefore a sum over its terms, and the share of term t is

            w_t (p_t . c) / (|x| |c|)

        Shares are negative where a term pulls away; they add up to the similarity.

        Args:
            columns, weights: of its terms, shape (terms,).
        """
        if number == NO_CLUSTER:
            return UNKNOWN
        terms, projections = self.lsa.terms[columns], self.lsa.projection[columns]
        pulls = weights * (projections @ self.clusters.unit_centroids[number])
        shares = pulls / np.linalg.norm(weights @ projections)
        distances = self.clusters.distances(vector)
        distances[number] = np.inf
        runner_up = int(distances.argmin())
        nearest = self.similarity(vector, number)
        if self.min_similarity and nearest["similarity"] < self.min_similarity:
            rejected = {"cluster": NO_CLUSTER, "top_terms": [], "similarity": nearest["similarity"]}
            nearest = {**rejected, "min_similarity": self.min_similarity, "nearest": [nearest]}
        return {
            **nearest,
            "runner_up": self.similarity(vector, runner_up) if np.isfinite(distances[runner_up]) else None,
            "shares": [{"term": terms[i], "share": shares[i].item()} for i in np.argsort(-shares)],
        }

    def similarity(self, vector: np.ndarray, number: int) -> dict[str, Any]:
        cluster = self.described.get(number, {"terms": []})
        return {
            "cluster": number,
            **({"name": cluster["name"]} if "name" in cluster else {}),
            "top_terms": [term for term, _ in cluster["terms"]],
            "similarity": float(self.clusters.unit_centroids[number] @ vector),
        }
