"""Find the clusters: LSA, competing k-means runs, self-training, and one linear map that reproduces the result.

The results are stock scikit-learn objects: a TruncatedSVD whose components separate the clusters, and a k-means model.
"""

import logging
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import normalize

from training.k_means import RECOMBINATIONS, cluster_sums, objective, recombine, run_k_means
from training.self_training import (
    STEPS,
    STEPS_WITH_MANY,
    log_likelihood,
    membership_directions,
    naive_bayes,
    naive_bayes_labels,
    self_train,
)

RUNS = 12
RUNS_TO_COMPARE = 4
LSA_TO_COMPARE = 100
MAX_RESTARTS = 4  # of a small corpus, which has as many local optima and takes less time for each
SURVIVORS = 8
MAX_SEARCHED = 20_000  # documents: more of them find no better clusters, in many times the time
DOCUMENTS_TO_LEARN = 50  # per cluster: a classifier cannot learn a cluster's topic from fewer

log = logging.getLogger("text_clustering")


class FittedClusters(NamedTuple):
    svd: TruncatedSVD  # with rotated components, shape (clusters, terms)
    model: KMeans
    vectors: np.ndarray  # that the model was fitted on, unit rows of shape (documents, clusters)
    idf_factors: np.ndarray  # that turn scikit-learn's idf into the chosen one, shape (terms,)


def fit_clusters(
    weights: csr_matrix,
    clusters: int,
    lsa: int,
    minibatch: bool,
    seed: int,
    verbose: bool,
    start: np.ndarray | None = None,
) -> FittedClusters:
    """Fit LSA and k-means, and rotate the LSA space so that it separates the clusters best. No label takes part.

    The steps are those of docs/quality.md, "How the clusters are found".

    Args:
        weights: TF-IDF, unit rows of shape (documents, terms).
        lsa: dimensions of the LSA space, fewer than documents and terms.
        start: the cluster of each document according to an earlier model, -1 for none. These clusters are refined, and
            only missing ones are searched for: a search from scratch would be no better, and find other clusters.
    """
    generator, documents = np.random.default_rng(seed), weights.shape[0]
    searched = weights
    if start is None and documents > MAX_SEARCHED:
        searched = weights[np.sort(generator.choice(documents, MAX_SEARCHED, replace=False))]
    factors = choose_idf_factors(searched, lsa, clusters, seed, start, generator)
    reweighted = reweight(searched, factors)
    svd, lsa_vectors = fit_lsa(reweighted, lsa, seed)
    restarts = max(1, min(MAX_RESTARTS, MAX_SEARCHED // len(lsa_vectors))) if start is None else 1
    candidates = [best_clustering(reweighted, lsa_vectors, start, clusters, generator) for _ in range(restarts)]
    labels = max(candidates, key=lambda labels: log_likelihood(reweighted, labels))
    log_search(restarts, start is None, objective(lsa_vectors, labels, clusters))
    if searched is not weights:
        searched_reweighted, reweighted = reweighted, reweight(weights, factors)
        labels = propagate_labels(reweighted, searched_reweighted, labels, clusters, generator)

    # The Normalizer after the SVD cancels the length of a TF-IDF row, so the components can include the other idf.
    directions = membership_directions(
        reweighted, labels, clusters, STEPS_WITH_MANY if documents > MAX_SEARCHED else STEPS
    )
    svd.components_ = (directions.T * factors).astype(weights.dtype)
    vectors = normalize(svd.transform(weights))
    return FittedClusters(svd, fit_k_means(vectors, labels, clusters, minibatch, seed, verbose), vectors, factors)


def log_search(restarts: int, from_scratch: bool, reached: float) -> None:
    if not from_scratch:
        return log.info("Refined the earlier model's clusters: k-means objective %.4f", reached)
    best_of = f"the best of {restarts} searches, each" if restarts > 1 else "one search,"
    log.info(
        "Found the clusters: %s %d k-means runs and %d recombinations; k-means objective %.4f",
        *(best_of, RUNS, RECOMBINATIONS, reached),
    )


def fit_k_means(
    vectors: np.ndarray, labels: np.ndarray, clusters: int, minibatch: bool, seed: int, verbose: bool
) -> KMeans:
    """Fit scikit-learn's k-means, which starts at the means of the given clusters."""
    centroids = cluster_sums(vectors, labels, clusters) / np.bincount(labels, minlength=clusters).clip(1)[:, np.newaxis]
    options = {"init": centroids, "n_init": 1, "random_state": seed, "verbose": verbose}
    if minibatch:
        # The start is good already: moving a small cluster to a random document would gain nothing.
        model = MiniBatchKMeans(clusters, **options, batch_size=2_048, reassignment_ratio=0)
    else:
        model = KMeans(clusters, **options)
    return model.fit(vectors)


def choose_idf_factors(
    weights: csr_matrix, lsa: int, clusters: int, seed: int, start: np.ndarray | None, generator: np.random.Generator
) -> np.ndarray:
    """Choose between two definitions of idf; returns factors on scikit-learn's, of shape (terms,).

    scikit-learn's idf is ln((1 + n) / (1 + df)) + 1. The square of that logarithm gives almost no weight to the words
    of every document, which works better than any list of stop words in long texts. But where one topic is most of the
    corpus, its own words are the frequent ones. A few k-means runs in few dimensions show with which of the two the
    clusters explain the documents better, in both weightings: each prefers its own.
    """
    squared = squared_idf_factors(weights)
    choices, likelihoods = {"plain": np.ones_like(squared), "squared": squared}, {}
    reweighted = {name: reweight(weights, factors) for name, factors in choices.items()}
    for name, own in reweighted.items():
        _, lsa_vectors = fit_lsa(own, min(lsa, LSA_TO_COMPARE), seed)
        clusterings = run_k_means(lsa_vectors, start, clusters, RUNS_TO_COMPARE, generator)
        likelihoods[name] = max(
            sum(log_likelihood(either, labels) for either in reweighted.values()) for _, labels in clusterings
        )
    better = max(likelihoods, key=lambda name: likelihoods[name])
    log.info("Chose the %s idf, with which the clusters explain the documents better", better)
    return choices[better]


def squared_idf_factors(weights: csr_matrix) -> np.ndarray:
    """Factors that turn scikit-learn's idf into ln((1 + n) / (1 + df)) ** 2, of shape (terms,)."""
    document_frequencies = np.bincount(weights.indices, minlength=weights.shape[1])
    logarithm = np.log((1 + weights.shape[0]) / (1 + document_frequencies))
    return logarithm**2 / (logarithm + 1)


def reweight(weights: csr_matrix, factors: np.ndarray) -> csr_matrix:
    """TF-IDF with each term multiplied by its factor: unit rows, in half the memory of float64."""
    weights = weights.astype(np.float32)
    weights.data *= factors[weights.indices]
    return normalize(weights, copy=False)


def fit_lsa(weights: csr_matrix, lsa: int, seed: int) -> tuple[TruncatedSVD, np.ndarray]:
    """Fit LSA; returns it and the unit vectors of the documents."""
    # No normalisation between the iterations: it takes half of the time and most of the memory, and three need none.
    svd = TruncatedSVD(lsa, n_iter=3, power_iteration_normalizer="none", random_state=seed)
    return svd, normalize(svd.fit_transform(weights), copy=False)


def best_clustering(
    weights: csr_matrix,
    lsa_vectors: np.ndarray,
    start: np.ndarray | None,
    clusters: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Find clusters in the LSA space and refine the most likely clustering by self-training.

    The likelihood is that of a naive Bayes model of the terms, which is the same measure for all clusterings.
    """
    survivors = run_k_means(lsa_vectors, start, clusters, RUNS, generator)[:SURVIVORS]
    if start is None:
        survivors = recombine(lsa_vectors, survivors, clusters, generator)
    refined = [naive_bayes_labels(weights, labels, rounds=2) for _, labels in survivors]
    most_likely = max(refined, key=lambda labels: log_likelihood(weights, labels))
    if len(most_likely) < DOCUMENTS_TO_LEARN * clusters:
        return most_likely
    return self_train(weights, most_likely, clusters, generator)


def propagate_labels(
    weights: csr_matrix, searched: csr_matrix, labels: np.ndarray, clusters: int, generator: np.random.Generator
) -> np.ndarray:
    """Extend the clusters of the searched documents to all documents by naive Bayes, and refine by self-training."""
    labels = naive_bayes(searched, labels).predict(weights)
    if len(labels) < DOCUMENTS_TO_LEARN * clusters:
        return labels
    return self_train(weights, labels, clusters, generator)
