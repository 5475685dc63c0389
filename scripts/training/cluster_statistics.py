"""Cluster statistics accumulated batch by batch: sizes, top terms, example documents, agreement with labels."""

from bisect import insort
from collections import Counter
from typing import NamedTuple

import numpy as np
from sklearn import metrics

from corpus.documents import Batch
from model.assigner import Assigned, TermSums
from model.clusters import NO_CLUSTER

CENTRAL_DOCUMENTS = 5
BORDERLINE_DOCUMENTS = 3


class Example(NamedTuple):
    """A central or a borderline document of a cluster."""

    rank: tuple[float, int]  # examples are sorted by it, in ascending order
    title: str
    text: str
    label: str | None
    similarity: float
    runner_up: int
    runner_up_similarity: float


class Examples:
    """The documents of lowest rank, with different titles."""

    def __init__(self, size: int):
        self.size = size
        self.best: list[Example] = []

    def limit(self) -> float:
        """Documents of this rank or above are not added."""
        return self.best[-1].rank[0] if len(self.best) == self.size else np.inf

    def add(self, example: Example) -> None:
        for other in self.best:
            if other.title == example.title:
                if other.rank <= example.rank:
                    return
                self.best.remove(other)
                break
        insort(self.best, example, key=lambda e: e.rank)
        del self.best[self.size :]


class ClusterStatistics:
    """Statistics of the assigned documents.

    Args:
        rows: number of centroids, including placeholders of unused numbers.
        terms: size of the vocabulary.
    """

    def __init__(self, rows: int, terms: int):
        self.documents = self.unknown = self.with_label = 0
        self.sizes = np.zeros(rows, dtype=np.int64)
        self.term_weights, self.term_documents = np.zeros((rows, terms)), np.zeros((rows, terms))
        self.central = [Examples(CENTRAL_DOCUMENTS) for _ in range(rows)]
        self.borderline = [Examples(BORDERLINE_DOCUMENTS) for _ in range(rows)]
        self.label_codes: dict[str, int] = {}
        # Pairs of arrays: label codes and clusters of the documents that have both.
        self.labelled: list[tuple[np.ndarray, np.ndarray]] = []
        self.by_day: Counter[tuple[int, int]] = Counter()  # documents by proleptic Gregorian ordinal and cluster

    def add(self, batch: Batch, assigned: Assigned, sums: TermSums) -> None:
        known = assigned.clusters != NO_CLUSTER
        self.sizes += np.bincount(assigned.clusters[known], minlength=len(self.sizes))
        for total, part in ((self.term_weights, sums.weights), (self.term_documents, sums.documents)):
            part = part.tocoo()
            total[part.row, part.col] += part.data
        self.add_examples(self.central, -assigned.similarities, batch, assigned)
        self.add_examples(self.borderline, assigned.margins, batch, assigned)
        codes = [
            self.label_codes.setdefault(label, len(self.label_codes)) for label in batch.labels if label is not None
        ]
        with_label = np.array([label is not None for label in batch.labels])
        both = known[with_label]
        self.labelled.append((np.array(codes, dtype=np.int32)[both], assigned.clusters[with_label & known]))
        self.count_days(batch, assigned.clusters)
        self.with_label += len(codes)
        self.documents += len(known)
        self.unknown += int(np.sum(~known))

    def count_days(self, batch: Batch, clusters: np.ndarray) -> None:
        pairs = zip(batch.dates or [], clusters.tolist())
        self.by_day.update((date.toordinal(), number) for date, number in pairs if date and number != NO_CLUSTER)

    def add_examples(self, examples: list[Examples], ranks: np.ndarray, batch: Batch, assigned: Assigned) -> None:
        """Add the documents of a batch that are better examples of their clusters than those found so far."""
        limits = np.array([example.limit() for example in examples])
        candidates = np.flatnonzero((assigned.clusters != NO_CLUSTER) & (ranks < limits[assigned.clusters]))
        for place in candidates[np.argsort(ranks[candidates], kind="stable")].tolist():
            own = examples[assigned.clusters[place]]
            if ranks[place] < own.limit():
                own.add(
                    Example(
                        (float(ranks[place]), self.documents + place),
                        batch.titles[place],
                        batch.documents[place],
                        batch.labels[place],
                        float(assigned.similarities[place]),
                        int(assigned.runners_up[place]),
                        float(assigned.runner_up_similarities[place]),
                    )
                )

    def titles(self, number: int) -> list[str]:
        """The titles of the most central documents of a cluster."""
        return [example.title for example in self.central[number].best]

    def weigh_terms(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Weigh the terms of the vocabulary by how well they describe a cluster.

        The weight of a term is its mean TF-IDF in the cluster, times the share of the cluster's documents that contain
        it, times the logarithm of the ratio of that share to the share elsewhere, to the power of 1.5. Without the
        shares, the words of one long thread and the names of frequent authors would rank above the words of the topic;
        with a smaller power, "you" and "for" would, with a larger one, the names again.

        Returns:
            The weights, and the ratios of the shares; both of shape (terms,).
        """
        count = max(int(self.sizes[number]), 1)
        share = self.term_documents[number] / count
        elsewhere = (self.term_documents.sum(axis=0) - self.term_documents[number] + 1) / (
            self.sizes.sum() - self.sizes[number] + 2
        )
        ratios = np.maximum(share, 1e-9) / elsewhere
        distinct = np.log(ratios).clip(0.01) ** 1.5
        return self.term_weights[number] / count * share * distinct, ratios

    def agreement(self) -> dict[str, float]:
        """Score the clusters against the labels of the documents that have one; empty with fewer than two labels."""
        if not self.labels:
            return {}
        codes, clusters = map(np.concatenate, zip(*self.labelled))
        in_order = np.argsort(np.argsort(list(self.label_codes)))  # scikit-learn sums in the order of the labels
        labels = in_order[codes]
        homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(labels, clusters)
        return {
            "homogeneity": float(homogeneity),
            "completeness": float(completeness),
            "v_measure": float(v_measure),
            "adjusted_rand_index": float(metrics.adjusted_rand_score(labels, clusters)),
            "adjusted_mutual_information": float(metrics.adjusted_mutual_info_score(labels, clusters)),
        }

    @property
    def labels(self) -> int:
        """The number of different labels; 0 if there is only one, which clusters cannot be compared with."""
        return len(self.label_codes) if len(self.label_codes) > 1 else 0

    def label_counts(self) -> Counter[tuple[str, int]]:
        """Numbers of documents by (label, cluster)."""
        names = list(self.label_codes)
        counts: Counter[tuple[int, int]] = Counter()
        for codes, clusters in self.labelled:
            counts.update(zip(codes.tolist(), clusters.tolist()))
        return Counter({(names[code], cluster): count for (code, cluster), count in counts.items()})
