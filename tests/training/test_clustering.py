"""scripts/training/clustering.py, k_means.py and self_training.py on small corpora."""

import hashlib
import json
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, normalize

from bench.quality import help_desk
from support.programs import ROOT
from support.services import run_training
from training import clustering, self_training
from training.clustering import fit_clusters
from training.k_means import spherical_k_means
from training.vocabulary import fit_vectorizer


def fit(documents, clusters, seed=0, **options):
    vectorizer, weights = fit_vectorizer(documents)
    lsa = min(50, *(size - 1 for size in weights.shape))
    svd, model, vectors, _ = fit_clusters(weights, clusters, lsa, True, seed, False, **options)
    return vectorizer, svd, model, vectors


@pytest.mark.parametrize("sizes", [(60, 20, 20), (600, 200, 200)])
def test_a_topic_that_is_most_of_the_corpus_is_one_cluster(sizes):
    documents, labels = help_desk(*sizes)
    _, _, model, _ = fit(documents, 3)
    assert adjusted_rand_score(labels, model.labels_) >= 0.95


def test_what_is_served_is_what_was_scored():
    documents, _ = help_desk(60, 20, 20)
    vectorizer, svd, model, vectors = fit(documents, 3)
    served = make_pipeline(vectorizer, svd, Normalizer()).transform(documents)
    assert np.allclose(served, vectors)
    assert np.array_equal(model.predict(served), model.labels_)


@pytest.mark.parametrize("clusters", [1, 2, 50, 100])
def test_any_number_of_clusters_is_fitted_and_none_is_empty(clusters):
    documents, _ = help_desk(180, 60, 60)
    _, _, model, vectors = fit(documents, clusters)
    assert np.isfinite(vectors).all() and model.cluster_centers_.shape == (clusters, clusters)
    assert len(np.unique(model.labels_)) == clusters


@pytest.mark.parametrize("clusters", [3, 20])
def test_clusters_of_a_large_corpus_are_searched_in_a_part_of_it(clusters, monkeypatch):
    monkeypatch.setattr(clustering, "MAX_SEARCHED", 200)
    documents, labels = help_desk(600, 200, 200)
    vectorizer, svd, model, vectors = fit(documents, clusters)
    assert np.isfinite(vectors).all() and len(np.unique(model.labels_)) == clusters
    served = make_pipeline(vectorizer, svd, Normalizer()).transform(documents)
    assert np.array_equal(model.predict(served), model.labels_)
    if clusters == 3:
        assert adjusted_rand_score(labels, model.labels_) >= 0.95


def test_documents_without_an_in_vocabulary_term_do_not_change_the_clusters():
    documents, labels = help_desk(60, 20, 20)
    _, weights = fit_vectorizer(documents)
    weights = vstack([weights, csr_matrix((5, weights.shape[1]))]).tocsr()
    _, model, vectors, _ = fit_clusters(weights, 3, 30, True, 0, False)
    assert np.isfinite(vectors).all()
    assert adjusted_rand_score(labels, model.labels_[: len(labels)]) >= 0.95


def test_clusters_of_an_earlier_model_are_kept():
    documents, labels = help_desk(60, 20, 20)
    before = np.unique(labels, return_inverse=True)[1]
    before[::7] = -1  # documents without an in-vocabulary term
    _, _, model, _ = fit(documents, 3, start=before)
    assert np.array_equal(model.labels_[before >= 0], before[before >= 0])
    assert adjusted_rand_score(labels, model.labels_) == 1


@pytest.mark.parametrize("doubtful", [1, 3])
def test_a_new_cluster_is_found_among_the_documents_that_the_start_leaves_out(doubtful):
    rng, topics = np.random.default_rng(0), np.repeat(np.arange(4), 40)
    # Topics 0 and 1 share half of their words, and so do 2 and 3: either pair may be the one that is split.
    words = [[f"pair{topic // 2}{letter}" for letter in "abcdef"] + [f"own{topic}{letter}" for letter in "abcdef"]
             for topic in range(4)]  # fmt: skip
    documents = [" ".join(rng.choice(words[topic], 8)) for topic in topics]
    start = np.where((topics == doubtful) & (np.arange(160) % 8 == 0), -1, topics // 2)
    _, _, model, _ = fit(documents, 3, start=start)
    expected = np.where(topics == doubtful, 2, topics // 2)
    assert adjusted_rand_score(expected, model.labels_) > 0.9


def test_the_same_seed_writes_identical_files(corpus, tmp_path):
    rows = [json.dumps({"text": document}) + "\n" for document in corpus.documents[::20]]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    options = ["--dataset", tmp_path / "corpus.jsonl", "--clusters", "8", "--lsa", "50", "--output-dir"]
    assert run_training(*options, tmp_path / "first").returncode == 0
    # In a process of its own, whose sets have another order.
    command = [sys.executable, ROOT / "scripts/text_clustering.py", *options, tmp_path / "second"]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, check=True)
    for name in ("model.joblib", "transformer.joblib"):
        first, second = (hashlib.sha256((tmp_path / folder / name).read_bytes()) for folder in ("first", "second"))
        assert first.hexdigest() == second.hexdigest(), name
    assert "_stop_words_id" not in vars(joblib.load(tmp_path / "first/transformer.joblib")[0])


def test_large_clusters_are_penalised():
    # Two adjacent groups: k-means alone divides the space between them equally, the penalty gives the small one more.
    rng = np.random.default_rng(0)
    angles = np.concatenate([rng.normal(0, 0.3, 900), rng.normal(1, 0.3, 100)])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = (angles > 0.5).astype(int)
    penalised = spherical_k_means(vectors, labels, 2)
    assert penalised.sum() > labels.sum()


def test_directions_are_those_of_ridge_regression():
    rng = np.random.default_rng(0)
    weights = normalize(csr_matrix(rng.random((200, 30)) * (rng.random((200, 30)) < 0.3)))
    labels = rng.integers(0, 3, 200)
    directions = self_training.membership_directions(weights, labels, 3)
    members = np.eye(3)[labels] * np.sqrt(200 / (3 * np.bincount(labels)))
    exact = Ridge(self_training.PENALTY, fit_intercept=False).fit(weights, members).coef_.T
    assert np.abs(directions - exact).max() < 0.02 * np.abs(exact).max()


def test_a_document_does_not_influence_its_own_correction():
    documents, labels = help_desk(60, 20, 20)
    _, weights = fit_vectorizer(documents)
    labels = np.unique(labels, return_inverse=True)[1]
    wrong = labels.copy()
    wrong[0] = (labels[0] + 1) % 3
    folds = np.arange(len(labels)) % self_training.FOLDS
    own_fold = folds == folds[0]
    right, wrong_memberships = (
        self_training.held_out_memberships(weights, truth, 3, folds) for truth in (labels, wrong)
    )
    assert np.array_equal(right[own_fold], wrong_memberships[own_fold])
    assert not np.array_equal(right, wrong_memberships)
