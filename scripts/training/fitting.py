"""Fit a model on a sample: choose the number of clusters, fit, measure the baseline, number the clusters."""

import logging
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits

from training.baseline import measure_baseline
from training.cluster_count import choose_clusters
from training.clustering import fit_clusters, reweight
from training.earlier_model import EarlierModel
from training.lineage import Continuation, as_start, continue_numbers, renumber, start_of_lineage
from training.progress import timed
from training.sample import Sample
from training.vocabulary import without_phrases

log = logging.getLogger("text_clustering")


class Settings(NamedTuple):
    """The settings in clusters.json, and the verbosity of k-means."""

    clusters: int
    lsa: int  # dimensions
    minibatch: bool
    seed: int
    verbose: bool


class FittedModel(NamedTuple):
    pipeline: Pipeline  # TF-IDF, SVD, normalizer
    model: KMeans  # predicts the numbers of the continuation
    vectors: np.ndarray  # of the documents of the sample with an in-vocabulary term, unit rows
    continuation: Continuation
    baseline: dict[str, dict[str, float]]  # similarity and rejected of clusters.json, over all documents
    baselines: list[dict]  # of each cluster, in the order of continuation.numbers


def choose_number(sample: Sample, lowest: int, highest: int, lsa: int, seed: int) -> tuple[int, dict[int, float]]:
    """Choose the number of clusters within a range; returns it, and what choose_clusters measured."""
    if lowest == highest:
        return lowest, {}
    with threadpool_limits(1), timed("Choosing the number of clusters"):
        # Half of the sample contains each phrase too rarely to reproduce a cluster by it.
        single_words = without_phrases(sample.vectorizer, sample.weights_to_fit())
        return choose_clusters(single_words, lowest, highest, lsa, seed)


def fit_model(sample: Sample, settings: Settings, earlier: EarlierModel | None) -> FittedModel:
    """Fit LSA and k-means, starting from the clusters of an earlier model if there is one."""
    start, clusters = None, settings.clusters
    if earlier:
        with timed(f"Assigning the documents with the earlier model {earlier.version}"):
            assigned, similarities = earlier.assign(sample.corpus.select(sample.in_vocabulary).documents)
        start = as_start(earlier, assigned, similarities, clusters)
    # One thread: more would save a few seconds on an idle machine and cost minutes on a busy one, where they wait for
    # each other; and the order of their sums would make the clusters depend on the number of cores.
    with threadpool_limits(1), timed(f"Fitting LSA and k-means with {clusters} clusters"):
        svd, model, vectors, idf_factors = fit_clusters(sample.weights_to_fit(), *settings, start)
        weights = reweight(sample.complete_weights()[sample.in_vocabulary], idf_factors)
        baseline, baselines = measure_baseline(weights, model.labels_, clusters)
    warn_of_empty_clusters(model, clusters)
    continuation = start_of_lineage(clusters)
    if earlier:
        continuation = continue_numbers(earlier, assigned, similarities, model.labels_, clusters)
        model = renumber(model, continuation.numbers)
    pipeline = make_pipeline(sample.vectorizer, svd, Normalizer())
    return FittedModel(pipeline, model, vectors, continuation, baseline, baselines)


def warn_of_empty_clusters(model: KMeans, clusters: int) -> None:
    filled = len(np.unique(model.labels_))
    if filled < clusters:
        log.warning(
            "Only %d of %d clusters have documents: these differ in too few words for more. Choose --clusters %d",
            *(filled, clusters, filled),
        )
