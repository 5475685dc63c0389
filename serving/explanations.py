"""Explain which terms pulled a document to its cluster."""

from typing import Any

import numpy as np

from model.artefacts import Summary
from model.clusters import NO_CLUSTER, Clusters
from model.projection import Lsa, Weights, composed

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
        self.written = self.written_terms()

    def written_terms(self) -> dict[str, str]:
        """The top terms of all clusters as people write them, by term of the vocabulary, where the two differ."""
        written: dict[str, str] = {}
        for cluster in self.described.values():
            for text, _ in cluster["terms"]:
                found = composed(np.array(self.lsa.analyze(text), dtype=object)).tolist()
                # One word, or two words and their phrase; several pairs of letters belong to one whole word.
                if len(found) == 2 * len(text.split(" ")) - 1 and found[-1] != text:
                    written.setdefault(found[-1], text)
        return written

    def explain(self, weights: Weights, vectors: np.ndarray, numbers: np.ndarray, top: int = 0) -> list[dict[str, Any]]:
        """Explain which terms pulled each document to its cluster.

        Args:
            weights: from Lsa.weigh.
            vectors: shape (documents, dimensions).
            numbers: of the nearest clusters or NO_CLUSTER, shape (documents,).
            top: how many of the nearest clusters to describe; 0: none but the cluster and the runner-up.
        """
        return [
            self.explain_document(weights.columns[row], weights.values[row], vector, number, top)
            for row, vector, number in zip(weights.rows(), vectors, numbers.tolist())
        ]

    def explain_document(
        self, columns: np.ndarray, weights: np.ndarray, vector: np.ndarray, number: int, top: int
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
            return {**UNKNOWN, **({"nearest": []} if top else {})}
        terms, projections = self.lsa.terms[columns], self.lsa.projection[columns]
        pulls = weights * (projections @ self.clusters.unit_centroids[number])
        shares = pulls / np.linalg.norm(weights @ projections)
        others = self.clusters.ranking(vector[np.newaxis], max(top, 2) + 1)[0].tolist()
        ranked = [number, *(other for other in others if other != number)][: max(top, 2)]
        nearest = [self.similarity(vector, number) for number in ranked]
        is_rejected = self.min_similarity is not None and nearest[0]["similarity"] < self.min_similarity
        return {
            **(self.rejected(nearest[0]) if is_rejected else nearest[0]),
            "runner_up": nearest[1] if len(nearest) > 1 else None,
            "shares": [self.share(terms[i], shares[i].item()) for i in np.argsort(-shares)],
            **({"nearest": nearest[: max(top, 1)]} if top or is_rejected else {}),
        }

    def share(self, term: str, share: float) -> dict[str, Any]:
        """The share of a term of the vocabulary, and how people write it if that differs."""
        return {"term": term, **({"written": self.written[term]} if term in self.written else {}), "share": share}

    def rejected(self, nearest: dict[str, Any]) -> dict[str, Any]:
        return {
            "cluster": NO_CLUSTER,
            "top_terms": [],
            "similarity": nearest["similarity"],
            "min_similarity": self.min_similarity,
        }

    def similarity(self, vector: np.ndarray, number: int) -> dict[str, Any]:
        cluster = self.described.get(number, {"terms": []})
        return {
            "cluster": number,
            **({"name": cluster["name"]} if "name" in cluster else {}),
            "top_terms": [term for term, _ in cluster["terms"]],
            "similarity": float(self.clusters.unit_centroids[number] @ vector),
        }

    def nearest_tensors(self, vectors: np.ndarray, top: int) -> dict[str, np.ndarray]:
        """Number, similarity and name of the clusters nearest to each document, as tensors of the v2 protocol by name.

        A document without an in-vocabulary term has -1, 0 and "".

        Args:
            vectors: shape (documents, dimensions).

        Returns:
            Arrays of shape (documents, top), or with fewer columns if there are fewer clusters.
        """
        known = vectors.any(axis=1)
        numbers = self.clusters.ranking(vectors, top)
        similarities = [self.clusters.similarities(vectors, column) for column in numbers.T]
        numbers[~known] = NO_CLUSTER
        names = {number: cluster.get("name", "") for number, cluster in self.described.items()}
        return {
            "nearest": numbers,
            "similarity": np.column_stack(similarities),
            "name": np.array([[names.get(n, "") for n in row] for row in numbers.tolist()], dtype=object),
        }
