#!/usr/bin/env python
"""Measure how stable cluster numbers are when a model is trained again with --like, on 20 Newsgroups.

    python tests/bench/stability.py

Agreement is the share of 2,000 posts, none of them used in a training, that get the same number from both models.
V-measure and ARI are computed on the training documents, with --like and without. Topics are removed and added by
removing and adding the posts of a group.
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
from training.baseline import measure_baseline
from training.clustering import fit_clusters
from training.earlier_model import EarlierModel
from training.lineage import as_start, continue_numbers, renumber, start_of_lineage
from training.vocabulary import fit_vectorizer

CLUSTERS = 20
HELD_OUT = 2_000
LSA = 300


class Part(NamedTuple):
    """Some of the documents, with their TF-IDF weights, which are the same in all trainings on them."""

    documents: list[str]
    labels: np.ndarray
    vectorizer: TfidfVectorizer
    weights: csr_matrix


class Newsgroups:
    """20 Newsgroups, divided into held-out posts and the rest."""

    def __init__(self) -> None:
        corpus = load_corpus("20newsgroups")
        self.documents, self.labels = np.array(corpus.documents, dtype=object), np.array(corpus.labels)
        order = np.random.default_rng(0).permutation(len(self.documents))
        self.held_out, self.rest = order[:HELD_OUT], order[HELD_OUT:]

    def part(self, members: np.ndarray) -> Part:
        vectorizer, weights = fit_vectorizer(self.documents[members].tolist())
        in_vocabulary = weights.getnnz(axis=1) > 0
        chosen = members[in_vocabulary]
        return Part(self.documents[chosen].tolist(), self.labels[chosen], vectorizer, weights[in_vocabulary])

    def agreement(self, one: EarlierModel, other: EarlierModel, members: np.ndarray) -> float:
        texts = self.documents[members].tolist()
        return float(np.mean(one.assign(texts)[0] == other.assign(texts)[0]))

    def cluster_of(self, topic: str, model: EarlierModel) -> int:
        """The most frequent cluster of a topic's posts."""
        numbers = model.assign(self.documents[self.rest][self.labels[self.rest] == topic].tolist())[0]
        return int(np.bincount(numbers[numbers >= 0]).argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds

    posts = Newsgroups()
    fewer, more = posts.part(posts.rest[2_000:]), posts.part(posts.rest)
    measure_agreement("another seed", posts, fewer, fewer, seeds)
    measure_agreement("2,000 documents more", posts, fewer, more, seeds)
    measure_agreement("the other half", posts, posts.part(posts.rest[::2]), posts.part(posts.rest[1::2]), seeds)
    topics = np.unique(posts.labels)
    for seed, topic in enumerate(topics[:: len(topics) // seeds][:seeds]):
        remove_and_add(topic, posts, more, seed)


def measure_agreement(name: str, posts: Newsgroups, first: Part, second: Part, seeds: int) -> None:
    """Train on one part and, with and without --like, on another."""
    rows = []
    for seed in range(seeds):
        earlier, without = train(first, seed), train(second, seed + 100)
        like = train(second, seed + 100, earlier)
        agreements = [posts.agreement(earlier, model, posts.held_out) for model in (like, without)]
        rows.append([*agreements, *scores(like, second), *scores(without, second)])
        print(f"  {name}, seed {seed}: " + " ".join(f"{value:.4f}" for value in rows[-1]), flush=True)
    mean = np.mean(rows, axis=0)
    print(
        f"{name:22} agreement {mean[0]:.3f}, without --like {mean[1]:.3f}; "
        f"V-measure {mean[2]:.3f} and {mean[4]:.3f}, ARI {mean[3]:.3f} and {mean[5]:.3f}",
        flush=True,
    )


def remove_and_add(topic: str, posts: Newsgroups, everything: Part, seed: int) -> None:
    """Train with all topics, --like that without one topic, and --like that with all topics again."""
    others = posts.part(posts.rest[posts.labels[posts.rest] != topic])
    kept = posts.held_out[posts.labels[posts.held_out] != topic]
    whole = train(everything, seed)
    removed = train(others, seed + 100, whole, CLUSTERS - 1)
    print(
        f"{topic} (cluster {posts.cluster_of(topic, whole)}) removed: {changes(whole, removed)}, "
        f"agreement on the others {posts.agreement(whole, removed, kept):.3f}",
        flush=True,
    )
    added = train(everything, seed + 200, removed, CLUSTERS)
    print(
        f"{topic} added again: {changes(removed, added)}, its posts in {posts.cluster_of(topic, added)}, "
        f"agreement on the others {posts.agreement(removed, added, kept):.3f}",
        flush=True,
    )


def train(part: Part, seed: int, earlier: EarlierModel | None = None, clusters: int = CLUSTERS) -> EarlierModel:
    """Train as text_clustering.py does."""
    start = None
    if earlier:
        assigned, similarities = earlier.assign(part.documents)
        start = as_start(earlier, assigned, similarities, clusters)
    with threadpool_limits(1):
        svd, model, _, _ = fit_clusters(part.weights, clusters, LSA, True, seed, False, start)
    _, baselines = measure_baseline(part.weights, model.labels_, clusters)
    continuation = start_of_lineage(clusters)
    if earlier:
        continuation = continue_numbers(earlier, assigned, similarities, model.labels_, clusters)
        model = renumber(model, continuation.numbers)
    summary = {
        "created": None,
        "dataset": {"documents": len(part.documents)},
        "clusters": [
            {"cluster": number, "size": int(np.sum(model.labels_ == number)), "terms": [], **baseline}
            for number, baseline in zip(continuation.numbers, baselines)
        ],
        "lineage": continuation.lineage,
    }
    return EarlierModel(f"seed {seed}", summary, model, make_pipeline(part.vectorizer, svd, Normalizer()))


def scores(trained: EarlierModel, part: Part) -> list[float]:
    return [score(part.labels, trained.model.labels_) for score in (v_measure_score, adjusted_rand_score)]


def changes(before: EarlierModel, after: EarlierModel) -> str:
    old, new = ({cluster["cluster"] for cluster in model.summary["clusters"]} for model in (before, after))
    return f"gone {sorted(old - new)}, new {sorted(new - old)}"


if __name__ == "__main__":
    main()
