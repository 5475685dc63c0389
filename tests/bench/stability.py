#!/usr/bin/env python
"""Measure how well cluster numbers survive a retraining with --like, on 20 Newsgroups.

    python tests/bench/stability.py

Agreement is the share of 2,000 posts that take no part in any training and get the same number from both models, as
they are served. V-measure and ARI are of the documents of the training, with --like and without. A topic is one of the
groups: its posts are taken away, or are new.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, v_measure_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from corpus.source import load_corpus
from training.clustering import fit_clusters
from training.lineage import Earlier, as_start, continue_numbers, first_of_its_line, renumber
from training.vocabulary import fit_vectorizer

CLUSTERS = 20
HELD_OUT = 2_000
LSA = 300


class Part(NamedTuple):
    """Some of the documents, with their TF-IDF weights: what all trainings on them share."""

    documents: list[str]
    labels: np.ndarray
    vectorizer: TfidfVectorizer
    weights: csr_matrix


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds

    corpus = load_corpus("20newsgroups")
    documents, labels = np.array(corpus.documents, dtype=object), np.array(corpus.labels)
    order = np.random.default_rng(0).permutation(len(documents))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]

    def part(members: np.ndarray) -> Part:
        vectorizer, weights = fit_vectorizer(documents[members].tolist())
        known = weights.getnnz(axis=1) > 0
        return Part(documents[members][known].tolist(), labels[members][known], vectorizer, weights[known])

    def agreement(one: Earlier, other: Earlier, members: np.ndarray = held_out) -> float:
        texts = documents[members].tolist()
        return float(np.mean(one.assign(texts)[0] == other.assign(texts)[0]))

    fewer, more = part(rest[2_000:]), part(rest)
    halves = part(rest[::2]), part(rest[1::2])
    for name, first, then in (
        ("another seed", fewer, fewer),
        ("2,000 documents more", fewer, more),
        ("the other half", *halves),
    ):
        rows = []
        for seed in range(seeds):
            earlier, without = train(first, seed), train(then, seed + 100)
            like = train(then, seed + 100, earlier)
            rows.append(
                [agreement(earlier, like), agreement(earlier, without), *scores(like, then), *scores(without, then)]
            )
            print(f"  {name}, seed {seed}: " + " ".join(f"{value:.4f}" for value in rows[-1]), flush=True)
        mean = np.mean(rows, axis=0)
        print(
            f"{name:22} agreement {mean[0]:.3f}, without --like {mean[1]:.3f}; "
            f"V-measure {mean[2]:.3f} and {mean[4]:.3f}, ARI {mean[3]:.3f} and {mean[5]:.3f}",
            flush=True,
        )

    for seed, topic in enumerate(np.unique(labels)[:: len(np.unique(labels)) // seeds][:seeds]):
        others, kept = part(rest[labels[rest] != topic]), held_out[labels[held_out] != topic]
        whole = train(more, seed)
        number = most_frequent(whole.assign(documents[rest][labels[rest] == topic].tolist())[0])
        removed = train(others, seed + 100, whole, CLUSTERS - 1)
        gone = number_set(whole) - number_set(removed)
        print(
            f"{topic} (cluster {number}) taken away: gone {sorted(gone)}, new {sorted(number_set(removed) - number_set(whole))}, "
            f"agreement on the others {agreement(whole, removed, kept):.3f}",
            flush=True,
        )
        added = train(more, seed + 200, removed, CLUSTERS)
        new = most_frequent(added.assign(documents[rest][labels[rest] == topic].tolist())[0])
        print(
            f"{topic} back again: gone {sorted(number_set(removed) - number_set(added))}, "
            f"new {sorted(number_set(added) - number_set(removed))}, its posts in {new}, "
            f"agreement on the others {agreement(removed, added, kept):.3f}",
            flush=True,
        )


def train(part: Part, seed: int, earlier: Earlier | None = None, clusters: int = CLUSTERS) -> Earlier:
    """Train as text_clustering.py does."""
    start = None
    if earlier:
        assigned, similarities = earlier.assign(part.documents)
        start = as_start(earlier, assigned, similarities, clusters)
    with threadpool_limits(1):
        svd, model, _, _ = fit_clusters(part.weights, clusters, LSA, True, seed, False, start)
    continuation = first_of_its_line(clusters)
    if earlier:
        continuation = continue_numbers(earlier, assigned, model.labels_, clusters)
        model = renumber(model, continuation.numbers)
    summary = {
        "created": None,
        "dataset": {"documents": len(part.documents)},
        "clusters": [
            {"cluster": number, "size": int(np.sum(model.labels_ == number)), "terms": []}
            for number in continuation.numbers
        ],
        "lineage": continuation.lineage,
    }
    return Earlier(f"seed {seed}", summary, model, make_pipeline(part.vectorizer, svd, Normalizer()))


def scores(trained: Earlier, part: Part) -> list[float]:
    return [score(part.labels, trained.model.labels_) for score in (v_measure_score, adjusted_rand_score)]


def number_set(trained: Earlier) -> set[int]:
    return {cluster["cluster"] for cluster in trained.summary["clusters"]}


def most_frequent(numbers: np.ndarray) -> int:
    return int(np.bincount(numbers[numbers >= 0]).argmax())


if __name__ == "__main__":
    main()
