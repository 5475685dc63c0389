"""Refine clusters by self-training a linear classifier on all terms.

LSA keeps the directions in which the documents differ most, and drops the rare terms that would decide where a
borderline document belongs. A linear classifier, with a weight for each term and cluster, uses them. No label takes
part.
"""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.naive_bayes import MultinomialNB

from training.progress import shown_on_terminal

CYCLES = 2
FOLDS = 5
PENALTY = 10
STEPS = 4
STEPS_WITH_MANY = 12  # for many documents, which need a smaller penalty; stopping early is one, too


def self_train(weights: csr_matrix, labels: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Correct the clusters of the documents by ridge regressions and then by naive Bayes, in several cycles.

    A classifier mostly reproduces the labels that it has learned, wrong ones too, so the label of a document comes
    from a regression that has not seen it. Naive Bayes hardly overfits and is fitted on all documents.

    Args:
        weights: TF-IDF, shape (documents, terms).
        labels: the cluster of each document.

    Returns:
        The corrected cluster of each document.
    """
    for _ in shown_on_terminal("self-training", range(CYCLES)):
        folds = generator.permutation(len(labels)) % FOLDS
        for _ in range(3):
            corrected = held_out_memberships(weights, labels, clusters, folds).argmax(axis=1)
            if loses_a_cluster(corrected, labels):
                break
            labels = corrected
        labels = naive_bayes_labels(weights, labels, rounds=6)
    return labels


def held_out_memberships(weights: csr_matrix, labels: np.ndarray, clusters: int, folds: np.ndarray) -> np.ndarray:
    """Predict the cluster membership of each document by a regression fitted on the other folds.

    Returns:
        Memberships of shape (documents, clusters).
    """
    memberships = np.empty((len(labels), clusters), dtype=weights.dtype)
    for fold in range(FOLDS):
        directions = membership_directions(weights[folds != fold], labels[folds != fold], clusters)
        memberships[folds == fold] = weights[folds == fold] @ directions
    return memberships


def membership_directions(weights: csr_matrix, labels: np.ndarray, clusters: int, steps: int = STEPS) -> np.ndarray:
    """Ridge regression of cluster membership on the terms, by the first steps of conjugate gradients.

    Stopping early regularises, too. scikit-learn's Ridge(solver="sparse_cg") fits one cluster at a time, which is five
    times slower. Members of small clusters have larger targets, so that all clusters carry the same total weight.

    Returns:
        Directions of shape (terms, clusters).
    """
    sizes = np.bincount(labels, minlength=clusters).clip(1)
    memberships = np.zeros((len(labels), clusters), dtype=weights.dtype)
    memberships[np.arange(len(labels)), labels] = np.sqrt(len(labels) / (clusters * sizes))[labels]

    transposed = weights.T.tocsr()
    residual = transposed @ memberships
    directions, step = np.zeros_like(residual), residual.copy()
    squares = (residual**2).sum(axis=0)
    for _ in range(steps):
        image = transposed @ (weights @ step) + PENALTY * step
        length = squares / np.maximum((step * image).sum(axis=0), np.finfo(weights.dtype).tiny)
        directions += length * step
        residual -= length * image
        previous, squares = squares, (residual**2).sum(axis=0)
        step = residual + squares / np.maximum(previous, np.finfo(weights.dtype).tiny) * step
    return directions


def naive_bayes(weights: csr_matrix, labels: np.ndarray) -> MultinomialNB:
    """Multinomial naive Bayes on TF-IDF, after Rennie et al., "Tackling the poor assumptions of naive Bayes text
    classifiers", ICML 2003."""
    return MultinomialNB(alpha=0.1).fit(weights, labels)


def naive_bayes_labels(weights: csr_matrix, labels: np.ndarray, rounds: int) -> np.ndarray:
    """Alternate between fitting naive Bayes and moving each document to its most likely cluster (hard EM)."""
    for _ in range(rounds):
        corrected = naive_bayes(weights, labels).predict(weights)
        if np.array_equal(corrected, labels) or loses_a_cluster(corrected, labels):
            break
        labels = corrected
    return labels


def loses_a_cluster(corrected: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a correction would empty a cluster: small clusters can lose all documents to large ones."""
    return len(np.unique(corrected)) < len(np.unique(labels))


def log_likelihood(weights: csr_matrix, labels: np.ndarray) -> float:
    """The log-likelihood of the documents' terms under naive Bayes, each document in its most likely cluster."""
    return float(naive_bayes(weights, labels).predict_joint_log_proba(weights).max(axis=1).sum())
