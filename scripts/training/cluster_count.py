"""How many clusters a corpus without labels has: the number at which its halves find the most clusters in common.

Each half of the documents is clustered by itself, and the clusters of both halves then say where all documents belong.
A cluster is found again if one of the other half shares more than half of the documents of both (Jaccard index). With
too few clusters it is chance which topics share one, with too many which is split. After Hennig, "Cluster-wise
assessment of cluster stability", Computational Statistics and Data Analysis 52, 2007.
"""

import argparse
import logging

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import normalize

from training.clustering import assign, search, squared_idf_factors, sums
from training.self_training import membership_directions

SAMPLE = 5_000
NUMBERS = 10
SPLITS = 12
ATTEMPTS = 4
AUTO = (5, 50)
DOCUMENTS_PER_CLUSTER = 5  # fewer are no cluster that anybody would tell from chance

log = logging.getLogger("text_clustering")


def cluster_numbers(text: str) -> tuple[int, int]:
    """The lowest and the highest number of clusters that an argument allows: "20", "10-40" or "auto".

    Raises:
        argparse.ArgumentTypeError: it is none of these.
    """
    if text == "auto":
        return AUTO
    lowest, dash, highest = text.partition("-")
    if not lowest.isdecimal() or not (highest.isdecimal() or not dash):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number, nor a range such as 10-40, nor auto")
    numbers = int(lowest), int(highest or lowest)
    if not 1 <= numbers[0] <= numbers[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of positive numbers, the lower one first")
    return numbers


def choose_clusters(weights: csr_matrix, lowest: int, highest: int, lsa: int, seed: int) -> tuple[int, dict]:
    """Try some numbers of clusters from lowest to highest.

    Args:
        weights: TF-IDF, unit rows of shape (documents, terms).

    Returns:
        The number that is chosen, and by number the share of clusters that both halves find.
    """
    generator = np.random.default_rng(seed)
    sample = np.sort(generator.permutation(weights.shape[0])[:SAMPLE])
    light = normalize(weights[sample] @ diags(squared_idf_factors(weights))).astype(np.float32)
    highest = max(min(highest, len(sample) // (2 * DOCUMENTS_PER_CLUSTER)), lowest)
    dimensions = min(lsa, *(size - 1 for size in light.shape))
    vectors = normalize(TruncatedSVD(dimensions, n_iter=3, random_state=seed).fit_transform(light))
    halves = [np.array_split(generator.permutation(len(sample)), 2) for _ in range(SPLITS)]

    shares = {}
    for number in sorted(set(np.geomspace(lowest, highest, NUMBERS).round().astype(int).tolist())):
        shares[number] = [
            share_found_again(*(labels_by(light, vectors, half, number, generator) for half in both), number)
            for both in halves
        ]
        log.info("%d clusters: halves have %.1f of them in common", number, number * np.mean(shares[number]))
    chosen = best(shares)
    log.info("Chose %d clusters: there, halves have most in common, those that they have not counted off", chosen)
    if chosen in (lowest, highest) and lowest < highest:
        log.warning("%d is at an end of the range %d-%d: a wider one may hold a better number", chosen, lowest, highest)
    return chosen, {number: round(float(np.mean(values)), 4) for number, values in shares.items()}


def labels_by(
    weights: csr_matrix, vectors: np.ndarray, half: np.ndarray, clusters: int, generator: np.random.Generator
) -> np.ndarray:
    """The cluster of every document by what a half of them teaches."""
    _, labels = search(vectors[half], clusters, ATTEMPTS, generator)[0]
    turned = normalize(weights @ membership_directions(weights[half], labels, clusters))
    return assign(turned, sums(turned[half], labels, clusters))


def share_found_again(one: np.ndarray, other: np.ndarray, clusters: int) -> float:
    """The share of clusters that have more than half of their documents, and of their partner's, in common."""
    together = contingency_matrix(one, other)
    pairs = linear_sum_assignment(together, maximize=True)
    either = (together.sum(axis=1)[:, None] + together.sum(axis=0) - together)[pairs]
    return float(np.sum(together[pairs] > either / 2) / clusters)


def best(shares: dict[int, list[float]]) -> int:
    """The number with the most clusters that are found again, less those that are not.

    Of those that are no worse by more than a standard error it is the largest: a topic in two parts is easily seen.

    Args:
        shares: of the clusters found again, in each of the splits, by number.
    """
    gains = {number: number * (2 * np.array(values) - 1) for number, values in shares.items()}
    top = max(gains.values(), key=np.mean)
    least = top.mean() - top.std(ddof=1) / np.sqrt(len(top))
    return max(number for number, values in gains.items() if values.mean() >= least)
