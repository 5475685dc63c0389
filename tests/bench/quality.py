#!/usr/bin/env python
"""Measure how well the clusters agree with the labels, over several seeds, beside the scikit-learn example.

python tests/bench/quality.py                        20 Newsgroups
python tests/bench/quality.py --dataset aws-docs     a second corpus
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import fetch_20newsgroups
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, v_measure_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from clustering import fit_clusters
from corpus import load_corpus
from vocabulary import fit_vectorizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="20newsgroups")
    parser.add_argument("--lsa", type=int, nargs="+", default=[100])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()

    corpus = load_corpus(arguments.dataset)
    raw = fetch_20newsgroups(subset="all").data if arguments.dataset == "20newsgroups" else corpus.documents
    _, weights = fit_vectorizer(corpus.documents)
    print(f"{corpus.name}: {len(corpus.documents)} documents, {len(set(corpus.labels))} labels, k = 20")
    print(f"{'':32} V-measure          ARI                AMI                seconds")

    report("scikit-learn's example, LSA 100", lambda seed: example(raw, seed), corpus.labels, arguments.seeds)
    for lsa in arguments.lsa:
        for minibatch in (True, False):
            report(
                f"LSA {lsa}, {'mini-batch ' if minibatch else ''}k-means",
                lambda seed: fit_clusters(weights, 20, lsa, minibatch, seed, False)[1].labels_,
                corpus.labels,
                arguments.seeds,
            )


def example(documents: list[str], seed: int) -> np.ndarray:
    """The settings of the example that the project began with: headers and all."""
    vectorizer = TfidfVectorizer(max_df=0.5, max_features=10_000, min_df=2, stop_words="english")
    lsa = make_pipeline(vectorizer, TruncatedSVD(100, random_state=seed), Normalizer(copy=False))
    kmeans = MiniBatchKMeans(20, n_init=1, init_size=1_000, batch_size=1_000, random_state=seed)
    return kmeans.fit(lsa.fit_transform(documents)).labels_


def report(name: str, cluster, labels: list[str], seeds: int):
    scores = []
    for seed in range(seeds):
        start = time.perf_counter()
        with threadpool_limits(1):
            assigned = cluster(seed)
        seconds = time.perf_counter() - start
        agreement = [
            score(labels, assigned) for score in (v_measure_score, adjusted_rand_score, adjusted_mutual_info_score)
        ]
        scores.append([*agreement, seconds])
    mean, deviation = np.mean(scores, axis=0), np.std(scores, axis=0)
    columns = "  ".join(f"{m:7.3f} +- {d:5.3f}" for m, d in zip(mean[:3], deviation[:3]))
    print(f"{name:32}{columns}  {mean[3]:7.1f}", flush=True)


if __name__ == "__main__":
    main()
