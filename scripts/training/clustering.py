"""Find the clusters: LSA, many k-means and the best of their crossings, self-training, and one linear map that keeps it.

What is stored are three stock objects: TF-IDF, a TruncatedSVD whose components show the clusters, and a k-means model.
"""

import logging

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from training.self_training import (
    STEPS,
    STEPS_WITH_MANY,
    log_likelihood,
    membership_directions,
    naive_bayes,
    naive_bayes_labels,
    self_train,
)

ATTEMPTS = 12
ATTEMPTS_TO_COMPARE = 4
LSA_TO_COMPARE = 100
ISLANDS_OF_A_SMALL_CORPUS = 4  # which has as many dead ends, and takes less time for each
SURVIVORS = 8
CROSSINGS = 24
REFINEMENTS = 3
SIZE_BIAS = 0.1
CANDIDATES = 30
SEARCHED = 20_000  # documents: more of them find no better clusters, in many times the time
DOCUMENTS_TO_LEARN = 50  # of a cluster: fewer do not tell a classifier what the cluster is about

log = logging.getLogger("text_clustering")


def fit_clusters(
    weights: csr_matrix,
    clusters: int,
    lsa: int,
    minibatch: bool,
    seed: int,
    verbose: bool,
    start: np.ndarray | None = None,
) -> tuple[TruncatedSVD, KMeans, np.ndarray, csr_matrix]:
    """Fit LSA and k-means, and turn the LSA space so that it shows the clusters best. No label takes part.

    Where k-means ends depends on where it starts and on what the terms weigh, so many attempts compete. Of those that
    are the tightest in their LSA space, the one is taken that explains the terms of the documents best, by the
    likelihood of a naive Bayes model: a measure that is the same for all of them. It then corrects itself in the space
    of all terms. In a large corpus this is done with a part of the documents, of which the others learn their clusters.
    A ridge regression learns the directions that tell the clusters apart; they are stored as the
    components of the SVD, one for each cluster.

    Args:
        weights: TF-IDF, unit rows of shape (documents, terms).
        lsa: dimensions of the LSA space, fewer than documents and terms.
        start: the cluster of each document, -1 for none, as an earlier model sees it. Its clusters correct themselves,
            and only those that it lacks are looked for: new attempts would be no better, and other clusters.

    Returns:
        The SVD with its turned components, shape (clusters, terms); the k-means model; the vectors that it was trained
        on, unit rows of shape (documents, clusters); and TF-IDF with the idf that was found to be the better one.
    """
    generator, documents = np.random.default_rng(seed), weights.shape[0]
    searched = weights
    if start is None and documents > SEARCHED:
        searched = weights[np.sort(generator.choice(documents, SEARCHED, replace=False))]
    factors = better_idf_factors(searched, lsa, clusters, seed, start, generator)
    view = weigh(searched, factors)
    svd, lsa_vectors = fit_lsa(view, lsa, seed)
    islands = max(1, min(ISLANDS_OF_A_SMALL_CORPUS, SEARCHED // len(lsa_vectors))) if start is None else 1
    candidates = [develop(view, lsa_vectors, start, clusters, generator) for _ in range(islands)]
    labels = max(candidates, key=lambda labels: log_likelihood(view, labels))
    if searched is not weights:
        searched_view, view = view, weigh(weights, factors)
        labels = spread(view, searched_view, labels, clusters, generator)

    # The Normalizer after the SVD makes the length of a TF-IDF row no matter, so the components can hold the other idf.
    directions = membership_directions(view, labels, clusters, STEPS_WITH_MANY if documents > SEARCHED else STEPS)
    svd.components_ = (directions.T * factors).astype(weights.dtype)
    vectors = normalize(svd.transform(weights))
    centroids = sums(vectors, labels, clusters) / np.bincount(labels, minlength=clusters).clip(1)[:, np.newaxis]
    if minibatch:
        # The start is good already: nothing is gained by moving a small cluster to a random document.
        model = MiniBatchKMeans(
            clusters,
            init=centroids,
            n_init=1,
            batch_size=2_048,
            reassignment_ratio=0,
            random_state=seed,
            verbose=verbose,
        )
    else:
        model = KMeans(clusters, init=centroids, n_init=1, random_state=seed, verbose=verbose)
    return svd, model.fit(vectors), vectors, view


def better_idf_factors(
    weights: csr_matrix, lsa: int, clusters: int, seed: int, start: np.ndarray | None, generator: np.random.Generator
) -> np.ndarray:
    """What makes the better of two idf of scikit-learn's, for each term.

    scikit-learn's idf is ln((1 + n) / (1 + df)) + 1. The square of that logarithm leaves the words of every document
    next to nothing, which no list of stop words does as well in long texts. Where one topic is most of the corpus, its
    own words are the frequent ones. A few attempts in few dimensions tell which explains the documents better, in both
    weightings: each prefers its own.
    """
    squared = squared_idf_factors(weights)
    choices, likelihoods = {"plain": np.ones_like(squared), "squared": squared}, {}
    views = {name: weigh(weights, factors) for name, factors in choices.items()}
    for name, own_view in views.items():
        _, lsa_vectors = fit_lsa(own_view, min(lsa, LSA_TO_COMPARE), seed)
        attempts = attempt(lsa_vectors, start, clusters, ATTEMPTS_TO_COMPARE, generator)
        likelihoods[name] = max(sum(log_likelihood(view, labels) for view in views.values()) for _, labels in attempts)
    better = max(choices, key=likelihoods.get)
    log.info("TF-IDF with %s idf explains the documents better", better)
    return choices[better]


def squared_idf_factors(weights: csr_matrix) -> np.ndarray:
    """What makes ln((1 + n) / (1 + df)) ** 2 of scikit-learn's idf, for each term."""
    documents_with = np.bincount(weights.indices, minlength=weights.shape[1])
    logarithm = np.log((1 + weights.shape[0]) / (1 + documents_with))
    return logarithm**2 / (logarithm + 1)


def weigh(weights: csr_matrix, factors: np.ndarray) -> csr_matrix:
    """TF-IDF with another idf, unit rows, in half the memory of float64."""
    weights = weights.astype(np.float32)
    weights.data *= factors[weights.indices]
    return normalize(weights, copy=False)


def fit_lsa(weights: csr_matrix, lsa: int, seed: int) -> tuple[TruncatedSVD, np.ndarray]:
    """Fit LSA; returns it and the unit vectors of the documents."""
    # No normalisation between the iterations: it takes half of the time and most of the memory, and three need none.
    svd = TruncatedSVD(lsa, n_iter=3, power_iteration_normalizer="none", random_state=seed)
    return svd, normalize(svd.fit_transform(weights), copy=False)


def develop(
    weights: csr_matrix,
    lsa_vectors: np.ndarray,
    start: np.ndarray | None,
    clusters: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Find clusters in the LSA space and let the likeliest correct themselves in the space of all terms."""
    attempts = attempt(lsa_vectors, start, clusters, ATTEMPTS, generator)[:SURVIVORS]
    log.info("k-means, the best of %d attempts: tightness %.4f", ATTEMPTS, attempts[0][0])
    survivors = [labels for _, labels in attempts]
    if start is None:
        survivors = cross(lsa_vectors, attempts, clusters, generator)
    survivors = [naive_bayes_labels(weights, labels, rounds=2) for labels in survivors]
    likeliest = max(survivors, key=lambda labels: log_likelihood(weights, labels))
    if len(likeliest) < DOCUMENTS_TO_LEARN * clusters:
        return likeliest
    return self_train(weights, likeliest, clusters, generator)


def spread(
    weights: csr_matrix, searched: csr_matrix, labels: np.ndarray, clusters: int, generator: np.random.Generator
) -> np.ndarray:
    """Give all documents the clusters of those that were searched, and let these correct themselves once more."""
    labels = naive_bayes(searched, labels).predict(weights)
    if len(labels) < DOCUMENTS_TO_LEARN * clusters:
        return labels
    return self_train(weights, labels, clusters, generator)


def attempt(
    lsa_vectors: np.ndarray,
    start: np.ndarray | None,
    clusters: int,
    number_of_attempts: int,
    generator: np.random.Generator,
) -> list[tuple[float, np.ndarray]]:
    """Attempt k-means from many starts, or from the one that there is; returns what search returns."""
    if start is None:
        return search(lsa_vectors, clusters, number_of_attempts, generator)
    return complete(lsa_vectors, start, clusters, number_of_attempts, generator)


def search(
    lsa_vectors: np.ndarray, clusters: int, number_of_attempts: int, generator: np.random.Generator
) -> list[tuple[float, np.ndarray]]:
    """Attempt k-means; returns tightness and the cluster of each document, the tightest first."""
    scatter, attempts = factorised_scatter(lsa_vectors), []
    for number in range(number_of_attempts):
        # The leading dimensions alone make a better start: the others are mostly noise to k-means.
        leading = normalize(lsa_vectors[:, : clusters * (2 + number % 2)])
        centroids, _ = kmeans_plusplus(leading, clusters, random_state=int(generator.integers(2**31)))
        labels = spherical_k_means(leading, assign(leading, centroids), clusters)
        attempts.append(refine(lsa_vectors, scatter, labels, clusters))
    return sorted(attempts, key=lambda pair: -pair[0])


def complete(
    lsa_vectors: np.ndarray,
    start: np.ndarray,
    clusters: int,
    number_of_attempts: int,
    generator: np.random.Generator,
) -> list[tuple[float, np.ndarray]]:
    """Begin with the clusters of a start, and look for those that it lacks; returns what search returns."""
    scatter, leading, attempts = factorised_scatter(lsa_vectors), normalize(lsa_vectors[:, : clusters * 2]), []
    known = start.max() + 1
    for _ in range(number_of_attempts if known < clusters else 1):
        centroids = normalize(sums(leading, start, known))
        for _ in range(clusters - known):
            centroids = np.vstack([centroids, farthest(leading, start < 0, centroids, generator)])
        labels = (
            assign(leading, centroids) if known < clusters else np.where(start < 0, assign(leading, centroids), start)
        )
        attempts.append(refine(lsa_vectors, scatter, labels, clusters))
    return sorted(attempts, key=lambda pair: -pair[0])


def farthest(
    vectors: np.ndarray, doubtful: np.ndarray, centroids: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The document, of some of the doubtful, that as a further centroid would be the nearest by most: k-means++."""
    places = np.flatnonzero(doubtful) if doubtful.any() else np.arange(len(vectors))
    candidates = vectors[generator.choice(places, min(len(places), CANDIDATES), replace=False)]
    gains = vectors @ candidates.T - (vectors @ centroids.T).max(axis=1, keepdims=True)
    return candidates[gains.clip(0).sum(axis=0).argmax()]


def cross(
    lsa_vectors: np.ndarray, survivors: list[tuple[float, np.ndarray]], clusters: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Cross clusterings: a child that is tighter than the worst takes its place.

    Returns:
        The cluster of each document in each of the survivors.
    """
    scatter = factorised_scatter(lsa_vectors)
    for _ in range(CROSSINGS):
        mother, father = (survivors[i][1] for i in generator.choice(len(survivors), 2, replace=False))
        centroids = crossed_centroids(lsa_vectors, mother, father, clusters, generator)
        tightness, labels = refine(lsa_vectors, scatter, assign(lsa_vectors, centroids), clusters)
        # Near-copies would soon be all that is left to cross.
        if tightness > survivors[-1][0] and all(adjusted_rand_score(labels, other) < 0.98 for _, other in survivors):
            survivors = sorted([*survivors[:-1], (tightness, labels)], key=lambda pair: -pair[0])
    log.info("k-means, %d crossings: tightness %.4f", CROSSINGS, survivors[0][0])
    return [labels for _, labels in survivors]


def crossed_centroids(
    vectors: np.ndarray, mother: np.ndarray, father: np.ndarray, clusters: int, generator: np.random.Generator
) -> np.ndarray:
    """Pair the centroids of two clusterings by their cosines and take one of each pair, whichever chance will have.

    After Fränti et al., "Genetic algorithms for large-scale clustering problems", The Computer Journal 40, 1997.
    """
    mothers, fathers = (normalize(sums(vectors, labels, clusters)) for labels in (mother, father))
    _, partners = linear_sum_assignment(mothers @ fathers.T, maximize=True)
    return np.where(generator.random((clusters, 1)) < 0.5, mothers, fathers[partners])


def refine(vectors: np.ndarray, scatter: tuple, labels: np.ndarray, clusters: int) -> tuple[float, np.ndarray]:
    """Adaptive dimension reduction: look for the clusters along the directions that tell those found so far apart.

    k-means finds clusters by the directions in which the documents differ most, of which many have nothing to do with
    topics. A ridge regression learns the better ones: Ding and Li, "Adaptive dimension reduction using discriminant
    analysis and k-means clustering", ICML 2007.

    Returns:
        The tightness of the clusters, their documents' mean cosine to the centroid in the space of the vectors, which
        is what spherical k-means maximises; and the cluster of each document.
    """
    for _ in range(REFINEMENTS):
        sizes = np.bincount(labels, minlength=clusters).clip(1)
        directions = cho_solve(scatter, (sums(vectors, labels, clusters) / np.sqrt(sizes)[:, np.newaxis]).T)
        labels = spherical_k_means(normalize(vectors @ directions.astype(vectors.dtype)), labels, clusters)
    return float(np.linalg.norm(sums(vectors, labels, clusters), axis=1).sum() / len(vectors)), labels


def factorised_scatter(vectors: np.ndarray) -> tuple:
    """The matrix of the ridge regression in refine; the penalty is the mean eigenvalue."""
    scatter = vectors.T @ vectors
    scatter[np.diag_indices_from(scatter)] += np.trace(scatter) / len(scatter)
    return cho_factor(scatter)


def spherical_k_means(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """k-means on unit vectors that holds large clusters back a little, for they grow by being near to everything.

    The bias is averaged with that of the round before, or two clusters would hand the same documents to and fro.
    """
    bias = np.zeros(clusters, dtype=vectors.dtype)
    for _ in range(20):
        sizes = np.bincount(labels, minlength=clusters).clip(1)
        bias = (bias + SIZE_BIAS * np.log(sizes * clusters / len(labels)).astype(vectors.dtype)) / 2
        labels, previous = assign(vectors, sums(vectors, labels, clusters), bias), labels
        if np.mean(labels != previous) < 0.002:
            break
    return labels


def assign(vectors: np.ndarray, centroids: np.ndarray, bias: np.ndarray | float = 0) -> np.ndarray:
    """The nearest centroid of each unit vector, by cosine less the bias of the cluster."""
    return (vectors @ normalize(centroids).T - bias).argmax(axis=1)


def sums(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Sum the vectors of each cluster, shape (clusters, dimensions); those with the label -1 are in none."""
    members = np.flatnonzero(labels >= 0)
    ones = np.ones(len(members), dtype=vectors.dtype)
    return csr_matrix((ones, (labels[members], members)), shape=(clusters, len(vectors))) @ vectors
