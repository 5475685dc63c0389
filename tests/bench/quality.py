#!/usr/bin/env python
"""Measure how well the clusters agree with the labels, compared with two baselines: mean and deviation over seeds.

    python tests/bench/quality.py                          all corpora
    python tests/bench/quality.py split help-600 --seeds 3

- 20newsgroups, aws-docs   complete
- split                    20 Newsgroups, fitted on its training half and scored on its test half; then scored
                           on the bodies of the test half alone
- skewed-0, -1, -2         20 Newsgroups, groups of 1000, 500, 333 ... posts, in three orders of the groups
- help-600, help-60        help desk tickets, 60 % on one subject
- small-25-2, -100-5, -300-20
                           number of posts and of groups
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.datasets import fetch_20newsgroups
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, v_measure_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from corpus.builtin import parse_post
from corpus.source import load_corpus
from training.boilerplate import drop_boilerplate
from training.clustering import fit_clusters
from training.vocabulary import fit_vectorizer

LSA = 300
CORPORA = ["20newsgroups", "split", "aws-docs", "skewed-0", "skewed-1", "skewed-2", "help-600", "help-60"]
CORPORA += ["small-25-2", "small-100-5", "small-300-20"]


class Labelled(NamedTuple):
    documents: list[str]
    labels: list[str]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", default=CORPORA, metavar="CORPUS")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()

    for name in arguments.corpora:
        fitted, *scored = load(name)
        clusters = len(set(fitted.labels))
        scored = scored or [fitted]
        print(f"\n{name}: {len(fitted.documents)} documents, k = {clusters}, {arguments.seeds} seeds, LSA {LSA}")
        print(f"{'':36} V-measure          ARI                AMI                CPU s")
        for method in (trained, plain, example):
            report(method, fitted.documents, scored, clusters, arguments.seeds)


# ------------------------------------------------------------------------------------------------------- corpora


def load(name: str) -> list[Labelled]:
    """The corpus to fit on, followed by those to score on, if they differ."""
    kind, _, number = name.partition("-")
    if name == "20newsgroups":
        return [newsgroups("all")]
    if name == "split":
        return [newsgroups("train"), newsgroups("test"), newsgroups("test", body_only=True)]
    if name == "aws-docs":
        corpus = load_corpus("aws-docs")
        return [Labelled(corpus.documents, corpus.labels)]
    if kind == "skewed":
        return [skewed(newsgroups("all"), int(number))]
    if kind == "small":
        return [small(newsgroups("all"), *map(int, number.split("-")))]
    if kind == "help":
        return [help_desk(int(number), int(number) // 3, int(number) // 3)]
    raise SystemExit(f"unknown corpus {name}: choose from {', '.join(CORPORA)}")


def newsgroups(subset: str, body_only: bool = False) -> Labelled:
    posts = fetch_20newsgroups(subset=subset)
    documents = [post.partition("\n\n")[2] if body_only else parse_post(post)[1] for post in posts.data]
    return Labelled(documents, [posts.target_names[target] for target in posts.target])


def skewed(corpus: Labelled, seed: int) -> Labelled:
    """Reduce a corpus so that the largest label has 1,000 documents, the second 500, the third 333 and so on."""
    generator, labels = np.random.default_rng(seed), np.array(corpus.labels)
    kept = []
    for rank, label in enumerate(generator.permutation(np.unique(labels)), start=1):
        kept.extend(generator.permutation(np.flatnonzero(labels == label))[: round(1_000 / rank)])
    return Labelled([corpus.documents[i] for i in sorted(kept)], labels[sorted(kept)].tolist())


def small(corpus: Labelled, documents: int, groups: int) -> Labelled:
    generator, labels = np.random.default_rng(0), np.array(corpus.labels)
    kept = np.flatnonzero(np.isin(labels, generator.permutation(np.unique(labels))[:groups]))
    kept = np.sort(generator.permutation(kept)[:documents])
    return Labelled([corpus.documents[i] for i in kept], labels[kept].tolist())


SUBJECTS = {
    "password": ("Password reset", ["needed", "please", "does not work", "request", "link expired"]),
    "printer": ("Printer", ["jams", "out of toner", "prints blank pages", "offline", "paper stuck"]),
    "vpn": ("VPN", ["drops", "slow", "tunnel fails", "disconnects", "certificate old"]),
}
PHRASES = [
    "today", "office laptop", "from home", "urgent", "again", "since Monday", "on my phone", "before the meeting",
    "as soon as possible", "third time", "new colleague", "old account", "please",
]  # fmt: skip
ENDINGS = {
    "password": ["thanks", "regards", "cannot work", "waiting"],
    "printer": ["floor two", "room nine", "third floor", "reception"],
    "vpn": ["hotel", "train", "home router", "airport"],
}


def help_desk(*sizes: int) -> Labelled:
    """Tickets that name their subject among phrases that all subjects share."""
    chance = random.Random(5)
    rows = [
        (f"{name} {chance.choice(troubles)} {chance.choice(PHRASES)}, {chance.choice(ENDINGS[label])}", label)
        for (label, (name, troubles)), size in zip(SUBJECTS.items(), sizes)
        for _ in range(size)
    ]
    return Labelled(*map(list, zip(*rows)))


# ------------------------------------------------------------------------------------------------------- methods


def example(documents: list[str], clusters: int, seed: int) -> tuple[Pipeline, KMeans]:
    """scikit-learn's example, LSA 100"""
    vectorizer = TfidfVectorizer(max_df=0.5, max_features=10_000, min_df=2, stop_words="english")
    pipeline = make_pipeline(vectorizer, *lsa_steps(documents, vectorizer, seed))
    model = MiniBatchKMeans(clusters, n_init=1, init_size=1_000, batch_size=1_000, random_state=seed)
    return pipeline, model.fit(pipeline.fit_transform(documents))


def plain(documents: list[str], clusters: int, seed: int) -> tuple[Pipeline, KMeans]:
    """TF-IDF, LSA 100, k-means, 5 starts"""
    minimum = 5 if len(documents) >= 1_000 else 2
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=minimum, max_features=30_000, stop_words="english")
    pipeline = make_pipeline(vectorizer, *lsa_steps(documents, vectorizer, seed))
    return pipeline, KMeans(clusters, n_init=5, random_state=seed).fit(pipeline.fit_transform(documents))


def lsa_steps(documents: list[str], vectorizer: TfidfVectorizer, seed: int) -> tuple[TruncatedSVD, Normalizer]:
    dimensions = min(100, *(size - 1 for size in vectorizer.fit_transform(documents).shape))
    return TruncatedSVD(dimensions, random_state=seed), Normalizer()


def trained(documents: list[str], clusters: int, seed: int) -> tuple[Pipeline, KMeans]:
    """scripts/text_clustering.py"""
    titles = [document.partition("\n")[0] for document in documents]
    vectorizer, weights = fit_vectorizer(drop_boilerplate(documents, titles))
    weights = weights[np.asarray(weights.sum(axis=1)).ravel() > 0]
    dimensions = min(LSA, *(size - 1 for size in weights.shape))
    svd, model, *_ = fit_clusters(weights, clusters, dimensions, True, seed, False)
    return make_pipeline(vectorizer, svd, Normalizer()), model


def report(method: Callable, documents: list[str], scored: list[Labelled], clusters: int, seeds: int):
    """Fit once per seed, on one thread, and print the agreement of the predictions with the labels."""
    scores = []
    for seed in range(seeds):
        start = time.process_time()
        with threadpool_limits(1):
            pipeline, model = method(documents, clusters, seed)
            seconds = time.process_time() - start
            predictions = [model.predict(pipeline.transform(corpus.documents)) for corpus in scored]
        scores.append([[*agreement(c.labels, p), seconds] for c, p in zip(scored, predictions)])
    for number, one in enumerate(np.swapaxes(scores, 0, 1)):
        mean, deviation = one.mean(axis=0), one.std(axis=0)
        columns = "  ".join(f"{m:7.3f} +- {d:5.3f}" for m, d in zip(mean[:3], deviation[:3]))
        name = method.__doc__ if number == 0 else "    body only"
        print(f"{name:36}{columns}  {mean[3]:7.1f}", flush=True)


def agreement(labels: list[str], predictions: np.ndarray) -> list[float]:
    return [score(labels, predictions) for score in (v_measure_score, adjusted_rand_score, adjusted_mutual_info_score)]


if __name__ == "__main__":
    main()
