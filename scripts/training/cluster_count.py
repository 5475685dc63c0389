"""Choose the number of clusters without labels: the number at which two halves of the corpus agree best.

Each half of the documents is clustered separately, and both clusterings are extended to all documents. A cluster is
reproduced if its Jaccard index with a cluster of the other half exceeds 0.5. With too few clusters, chance decides
which topics are joined, with too many, which are split. After Hennig, "Cluster-wise assessment of cluster stability",
Computational Statistics and Data Analysis 52, 2007.
"""

import argparse
import logging

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import normalize

from training.clustering import squared_idf_factors
from training.k_means import cluster_sums, nearest_centroids, run_from_random_starts
from training.self_training import membership_directions

SAMPLE = 5_000
NUMBERS = 10
SPLITS = 12
RUNS = 4
AUTO = (5, 50)
DOCUMENTS_PER_CLUSTER = 5  # nobody could tell a smaller cluster from chance

log = logging.getLogger("text_clustering")


def cluster_numbers(text: str) -> tuple[int, int]:
    """Parse a number of clusters, a range, or "auto": "20", "10-40"; returns the lowest and the highest number.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    if text == "auto":
        return AUTO
    lowest, dash, highest = text.partition("-")
    if not lowest.isdecimal() or not (highest.isdecimal() or not dash):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number, nor a range such as 10-40, nor auto")
    numbers = int(lowest), int(highest or lowest)
    if not 1 <= numbers[0] <= numbers[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of positive numbers, the lower one first")
    return numbers


def choose_clusters(
    weights: csr_matrix, lowest: int, highest: int, lsa: int, seed: int
) -> tuple[int, dict[int, float]]:
    """Try several numbers of clusters from lowest to highest.

    Args:
        weights: TF-IDF, unit rows of shape (documents, terms).

    Returns:
        The chosen number, and the share of reproduced clusters by number of clusters.
    """
    generator = np.random.default_rng(seed)
    sample = np.sort(generator.permutation(weights.shape[0])[:SAMPLE])
    reweighted = normalize(weights[sample] @ diags(squared_idf_factors(weights))).astype(np.float32)
    highest = max(min(highest, len(sample) // (2 * DOCUMENTS_PER_CLUSTER)), lowest)
    dimensions = min(lsa, *(size - 1 for size in reweighted.shape))
    vectors = normalize(TruncatedSVD(dimensions, n_iter=3, random_state=seed).fit_transform(reweighted))
    halves = [np.array_split(generator.permutation(len(sample)), 2) for _ in range(SPLITS)]

    shares = {}
    for number in sorted(set(np.geomspace(lowest, highest, NUMBERS).round().astype(int).tolist())):
        shares[number] = [
            share_reproduced(
                labels_from_half(reweighted, vectors, one, number, generator),
                labels_from_half(reweighted, vectors, other, number, generator),
                number,
            )
            for one, other in halves
        ]
        log.info("%d clusters: both halves reproduce %.1f of them", number, number * np.mean(shares[number]))
    chosen = best(shares)
    log.info("Chose %d clusters, where the number reproduced minus the number not reproduced is highest", chosen)
    if chosen in (lowest, highest) and lowest + 1 < highest:
        log.warning("%d is at an end of the range %d-%d: try a wider range", chosen, lowest, highest)
    return chosen, {number: round(float(np.mean(values)), 4) for number, values in shares.items()}


def labels_from_half(
    weights: csr_matrix, vectors: np.ndarray, half: np.ndarray, clusters: int, generator: np.random.Generator
) -> np.ndarray:
    """Cluster one half of the documents; returns the cluster of every document."""
    _, labels = run_from_random_starts(vectors[half], clusters, RUNS, generator)[0]
    rotated = normalize(weights @ membership_directions(weights[half], labels, clusters))
    return nearest_centroids(rotated, cluster_sums(rotated[half], labels, clusters))


def share_reproduced(one: np.ndarray, other: np.ndarray, clusters: int) -> float:
    """The share of clusters whose Jaccard index with their counterpart exceeds 0.5."""
    together = contingency_matrix(one, other)
    pairs = linear_sum_assignment(together, maximize=True)
    either = (together.sum(axis=1)[:, None] + together.sum(axis=0) - together)[pairs]
    return float(np.sum(together[pairs] > either / 2) / clusters)


def best(shares: dict[int, list[float]]) -> int:
    """The number of clusters at which most are reproduced, minus those that are not.

    Of the numbers within a standard error of the best, the largest is taken: a topic in two parts is easily recognised.

    Args:
        shares: the share of reproduced clusters in each split, by number of clusters.
    """
    gains = {number: number * (2 * np.array(values) - 1) for number, values in shares.items()}
    top = max(gains.values(), key=np.mean)
    least = top.mean() - top.std(ddof=1) / np.sqrt(len(top))
    return max(number for number, values in gains.items() if values.mean() >= least)
