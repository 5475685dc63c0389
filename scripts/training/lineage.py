"""Stable cluster IDs: give clusters the numbers of the clusters that they continue in an earlier model.

A number keeps its topic for as long as models are trained --like the previous one, so that whoever stores numbers or
routes by them needs no new mapping. New and old clusters are matched by the documents that both models assign. A
cluster that continues none gets a number that no earlier model in its lineage used, and the number of a cluster that is
gone is never reused.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from training.earlier_model import EarlierModel

# A new cluster continues an old one when the share of the old cluster's documents that it keeps, times the share of its
# own documents that come from there, is at least this: half of a cluster that split evenly has 0.5, a third 0.33, and
# so have merged clusters. Outliers that an old cluster collects in a corpus without its topic are far below.
CONTINUES = 0.2
GONE = 0.2  # a cluster with less than this part of its former share of the documents has only outliers left
DOUBTFUL = 0.05  # share of the documents that are least similar to the earlier clusters
SMALLEST_SHARE = 0.01  # that is worth reporting
OUT_OF_REACH = 1_000.0


class Continuation(NamedTuple):
    """The numbers of the new clusters, and how they relate to those of an earlier model."""

    numbers: list[int]  # of each new cluster
    inherited: list[dict]  # for each new cluster: continues and name of clusters.json, if it continues one
    lineage: dict  # of clusters.json

    def names(self) -> dict[int, str]:
        """The names that people gave to the clusters, by number."""
        return {number: of["name"] for number, of in zip(self.numbers, self.inherited) if "name" in of}


class Overlap(NamedTuple):
    """How the documents that both models assign are distributed; arrays of shape (earlier clusters, new clusters)."""

    numbers: list[int]  # of the earlier clusters
    counts: np.ndarray
    kept: np.ndarray  # share of the earlier cluster's documents
    gained: np.ndarray  # share of the new cluster's documents


def as_start(earlier: EarlierModel, assigned: np.ndarray, similarities: np.ndarray, clusters: int) -> np.ndarray | None:
    """Select the clusters of an earlier model from which new ones start: those that are not gone, the largest first.

    If there are fewer than wanted, the documents least similar to them are left without a cluster, because a new topic
    is among these: with a group of 20 Newsgroups added, its posts were 32 to 75 % of them.

    Args:
        assigned: the cluster numbers of the documents by the earlier model, -1 for none.
        similarities: the cosines to the centroids of these.
        clusters: the number of clusters wanted.

    Returns:
        The cluster of each document, counted from 0, -1 for none; None if all earlier clusters are gone.
    """
    assigned = earlier.merge(assigned)
    sizes = {number: int(np.sum(assigned == number)) for number in surviving(earlier, assigned)}
    largest_first = sorted(sizes, key=lambda number: -sizes[number])
    start = np.full(len(assigned), -1)
    for place, number in enumerate(largest_first[:clusters]):
        start[assigned == number] = place
    if len(sizes) < clusters:
        start[similarities < np.quantile(similarities, DOUBTFUL)] = -1
    return start if largest_first else None


def surviving(earlier: EarlierModel, assigned: np.ndarray) -> list[int]:
    """The numbers of the earlier clusters that still have a substantial share of the current documents.

    Args:
        assigned: as merged by the earlier model.
    """
    sizes = earlier.sizes()
    before, now = sum(sizes.values()), max(np.sum(assigned >= 0), 1)
    return [number for number, size in sizes.items() if np.sum(assigned == number) / now > GONE * size / before]


def continue_numbers(
    earlier: EarlierModel, assigned: np.ndarray, similarities: np.ndarray, labels: np.ndarray, clusters: int
) -> Continuation:
    """Number new clusters after the ones that they continue.

    Args:
        assigned: the cluster numbers of the documents by the earlier model, -1 for none.
        similarities: the cosines to the centroids of these.
        labels: the new clusters of the same documents, counted from 0.
        clusters: the number of new clusters.
    """
    overlap = overlap_of([cluster["cluster"] for cluster in earlier.summary["clusters"]], assigned, labels, clusters)
    of_typical = overlap_of(list(earlier.sizes()), typical(earlier, assigned, similarities), labels, clusters)
    matches = match(of_typical, surviving(earlier, earlier.merge(assigned)))
    partners = {new: overlap.numbers.index(number) for new, number in matches.items()}
    next_number, numbers = next_free_number(earlier.summary), []
    for new in range(clusters):
        numbers.append(overlap.numbers[partners[new]] if new in partners else next_number)
        next_number += new not in partners
    inherited = [
        inherited_from(earlier, overlap, numbers, partners[new], new) if new in partners else {}
        for new in range(clusters)
    ]
    lineage = lineage_of(earlier, overlap, numbers, partners, next_number)
    lineage["unassigned"] = int(np.sum(assigned < 0))
    lineage |= {"merged": {str(number): into for number, into in earlier.merged.items()}} if earlier.merged else {}
    return Continuation(numbers, inherited, lineage)


def typical(earlier: EarlierModel, assigned: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """The merged cluster numbers of the documents that represent the earlier clusters, -1 for the others.

    Texts of a new topic are in an earlier cluster only because they have to be in one. Where they outnumber its own, the
    new topic would take its number. A cluster is represented by the documents that are at least as similar to it as 95 %
    of its training documents were, or by all if there are too few of these, because its topic has changed.
    """
    lowest = {cluster["cluster"]: cluster["similarity"].get("0.05", 0.0) for cluster in earlier.summary["clusters"]}
    bounds = np.array([lowest.get(number, 0.0) for number in assigned.tolist()])
    merged = earlier.merge(assigned)
    similar = np.where(similarities >= bounds, merged, -1)
    return np.where(np.isin(merged, surviving(earlier, similar)), similar, merged)


def overlap_of(numbers: list[int], assigned: np.ndarray, labels: np.ndarray, clusters: int) -> Overlap:
    rows = {number: row for row, number in enumerate(numbers)}
    both = assigned >= 0
    counts = np.zeros((len(numbers), clusters), dtype=int)
    np.add.at(counts, (np.array([rows[number] for number in assigned[both].tolist()], dtype=int), labels[both]), 1)
    kept = counts / counts.sum(axis=1, keepdims=True).clip(1)
    gained = counts / counts.sum(axis=0).clip(1)
    return Overlap(numbers, counts, kept, gained)


def match(overlap: Overlap, survivors: list[int]) -> dict[int, int]:
    """Match new clusters with the earlier ones that they continue; returns the numbers of these by column."""
    pairs = zip(*linear_sum_assignment(overlap.counts, maximize=True))
    return {
        int(new): overlap.numbers[row]
        for row, new in pairs
        if overlap.numbers[row] in survivors and overlap.kept[row, new] * overlap.gained[row, new] >= CONTINUES
    }


def inherited_from(earlier: EarlierModel, overlap: Overlap, numbers: list[int], row: int, new: int) -> dict:
    """What a new cluster has from the one that it continues: its name, and how their documents differ."""
    cluster, number = earlier.summary["clusters"][row], numbers[new]
    continues = {
        "size": cluster["size"],
        "kept": round(float(overlap.kept[row, new]), 3),
        "lost": without(number, shares_by_number(overlap.kept[row], numbers)),
        "gained": without(number, shares_by_number(overlap.gained[:, new], overlap.numbers)),
    }
    return {"continues": continues} | {name: cluster[name] for name in ("name",) if name in cluster}


def lineage_of(
    earlier: EarlierModel, overlap: Overlap, numbers: list[int], partners: dict[int, int], next_number: int
) -> dict:
    """The lineage in clusters.json."""
    documents = int(overlap.counts.sum())
    return {
        "earlier": {name: earlier.summary[name] for name in ("created", "dataset")} | {"version": earlier.version},
        "versions": [earlier.version, *earlier.summary.get("lineage", {}).get("versions", [])],
        "documents": documents,
        "agreement": round(
            float(sum(overlap.counts[row, new] for new, row in partners.items()) / max(documents, 1)), 4
        ),
        "next_number": next_number,
        "new": {
            str(number): shares_by_number(overlap.gained[:, new], overlap.numbers)
            for new, number in enumerate(numbers)
            if new not in partners
        },
        "gone": {
            str(cluster["cluster"]): {"size": cluster["size"], "to": shares_by_number(overlap.kept[row], numbers)}
            | {name: cluster[name] for name in ("name", "terms") if name in cluster}
            for row, cluster in enumerate(earlier.summary["clusters"])
            if cluster["cluster"] not in numbers
        },
    }


def shares_by_number(shares: np.ndarray, numbers: list[int]) -> dict[str, float]:
    """Shares by cluster number, the largest first, without negligible ones. JSON has only strings for keys."""
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= SMALLEST_SHARE]
    return {str(numbers[i]): round(float(shares[i]), 3) for i in order}


def without(number: int, shares: dict[str, float]) -> dict[str, float]:
    return {other: share for other, share in shares.items() if other != str(number)}


def start_of_lineage(clusters: int) -> Continuation:
    """The numbers of a model without an earlier one."""
    return Continuation(list(range(clusters)), [{}] * clusters, {})


def next_free_number(summary: dict) -> int:
    """The first number that neither a model nor its lineage has used."""
    used = 1 + max(cluster["cluster"] for cluster in summary["clusters"])
    return max(used, summary.get("lineage", {}).get("next_number", 0))


def renumber(model: KMeans, numbers: list[int]) -> KMeans:
    """Make k-means predict these numbers: cluster i becomes numbers[i].

    predict returns the row of the nearest centroid, also in KServe's own server, which has no mapping of numbers. So
    the rows are arranged by number, and unused numbers hold a placeholder centroid that is never nearest to a unit
    vector. The model remains a stock scikit-learn object.
    """
    rows = max(numbers) + 1
    centroids = np.zeros((rows, model.cluster_centers_.shape[1]), dtype=model.cluster_centers_.dtype)
    centroids[:, 0] = OUT_OF_REACH
    centroids[numbers] = model.cluster_centers_
    model.labels_ = np.array(numbers, dtype=model.labels_.dtype)[model.labels_]
    model.cluster_centers_, model.n_clusters, model._n_threads = centroids, rows, 1
    model.init = "k-means++"  # was the start of the training, of another shape
    return model
