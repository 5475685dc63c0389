#!/usr/bin/env python
"""Measure the top terms: coherence and diversity of those displayed, compared with the heaviest of the vocabulary.

    python tests/bench/terms.py                            20 Newsgroups, aws-docs, and the corpora in tests/languages
    python tests/bench/terms.py aws-docs FILE --show       of these, and print the terms themselves as a Markdown table

Both lists are of the same model. Before: the ten heaviest terms of the vocabulary; after: the terms in clusters.json.

- coherence   mean NPMI of all pairs of a cluster's ten terms, 1: always in the same documents, 0: independent, -1: never
              together. Lau, Newman and Baldwin, "Machine reading tea leaves", EACL 2014; here with whole documents of
              the corpus itself as windows. A document contains a displayed term if it contains all its vocabulary terms.
- separate    the same without pairs that have a word in common, such as cluster and db cluster, which are together in
              any case.
- diversity   share of different words among all words of the top terms of all clusters. Dieng, Ruiz and Blei, "Topic
              modeling in embedding spaces", TACL 2020.
"""

import argparse
import itertools
import math
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from corpus.source import Source
from model.assigner import Assigner
from model.projection import Lsa
from training.cluster_statistics import ClusterStatistics
from training.displayed_terms import describe_terms
from training.fitting import FittedModel, Settings, fit_model
from training.sample import Sample, limit_dimensions, read_sample
from training.whole_words import is_pair

CORPORA = ["20newsgroups", "aws-docs", *sorted(map(str, Path(__file__).resolve().parents[1].glob("languages/*.jsonl")))]
CLUSTERS = 20  # of the corpora that are larger than those in tests/languages


class Scores(NamedTuple):
    coherence: float
    separate: float  # coherence without pairs that have a word in common
    diversity: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", default=CORPORA, metavar="CORPUS")
    parser.add_argument("--show", action="store_true", help="print the terms as well")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of small corpora: fewer dimensions than requested

    print(f"{'':16}{'coherence':>18}{'separate':>18}{'diversity':>18}")
    print(f"{'':16}" + f"{'before':>9}{'after':>9}" * 3)
    for name in arguments.corpora:
        sample, fitted = train(name)
        described = describe_terms(fitted, sample, statistics_of(sample, fitted))
        before = [cluster["vocabulary_terms"] for cluster in described.values()]
        after = [[term for term, _ in cluster["terms"]] for cluster in described.values()]
        columns = zip(*(measure(topics, after, sample) for topics in (before, after)))
        print(f"{Path(name).stem:16}" + "".join(f"{one:9.3f}{other:9.3f}" for one, other in columns), flush=True)
        if arguments.show:
            print("\n| Before | After |\n| --- | --- |")
            print(
                "\n".join(f"| {', '.join(one)} | {', '.join(other)} |" for one, other in zip(before, after)), end="\n\n"
            )


def train(name: str) -> tuple[Sample, FittedModel]:
    """A model of a corpus, as text_clustering.py trains it; a cluster per label in a small corpus."""
    source = Source(name)
    labels = {label for batch in source.batches() for label in batch.labels}
    clusters = len(labels) if name.endswith(".jsonl") else CLUSTERS
    sample = read_sample(source, sys.maxsize, clusters, 0, False)
    return sample, fit_model(sample, Settings(clusters, limit_dimensions(300, sample), True, 0, False), None)


def statistics_of(sample: Sample, fitted: FittedModel) -> ClusterStatistics:
    assigner = Assigner(Lsa(fitted.pipeline), fitted.model.cluster_centers_, fitted.continuation.numbers)
    assigned = assigner.nearest(fitted.pipeline[1:].transform(sample.complete_weights()))
    statistics = ClusterStatistics(len(fitted.model.cluster_centers_), sample.weights.shape[1])
    statistics.add(sample.corpus.as_batch(), assigned, assigner.sum_terms(sample.weights, assigned.clusters))
    return statistics


def measure(topics: list[list[str]], displayed: list[list[str]], sample: Sample) -> Scores:
    """Score the top terms of all clusters.

    Args:
        displayed: the terms that are displayed, of which a pair of letters may be a part.
    """
    analyze, vocabulary = sample.vectorizer.build_analyzer(), sample.vectorizer.vocabulary_
    columns = csc_matrix(sample.weights, dtype=bool)
    coherences, separate = [], []
    for topic, shown in zip(topics, displayed):
        parts, words = (
            [{vocabulary[part] for part in analyze(term) if part in vocabulary} for term in terms]
            for terms in (topic, shown)
        )
        inside = [documents_with(part, columns) for part in parts]
        pairs = list(itertools.combinations(range(len(topic)), 2))
        scores = [npmi(inside[one], inside[other]) for one, other in pairs]
        coherences.append(np.mean(scores))
        together = [
            any(parts[one] & word and parts[other] & word for word in words) or overlap(topic[one], topic[other])
            for one, other in pairs
        ]
        separate.append(np.mean([score for score, same in zip(scores, together) if not same]))
    words = [word for topic in topics for term in topic for word in term.casefold().split(" ")]
    return Scores(float(np.nanmean(coherences)), float(np.nanmean(separate)), len(set(words)) / len(words))


def overlap(one: str, other: str) -> bool:
    """Whether two pairs of letters may overlap in a text: 裹丢 and 包裹."""
    return is_pair(one) and is_pair(other) and (one[0] in other[1:] or other[0] in one[1:])


def documents_with(parts: Iterable[int], columns: csc_matrix) -> np.ndarray:
    """The mask of the documents that contain all terms of the given columns."""
    return np.logical_and.reduce([columns[:, [part]].toarray().ravel() for part in parts])


def npmi(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised pointwise mutual information of two terms, given the documents that contain them."""
    both = np.mean(one & other)
    if both in (0, 1):
        return float(both)
    return math.log(both / (np.mean(one) * np.mean(other))) / -math.log(both)


if __name__ == "__main__":
    main()
