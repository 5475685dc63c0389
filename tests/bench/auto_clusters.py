#!/usr/bin/env python
"""Measure the quality of the number of clusters that --clusters auto chooses.

    python tests/bench/auto_clusters.py
    python tests/bench/auto_clusters.py docstrings --seeds 1

For each seed a number is chosen, and a model is trained at every number that was tried. The ARI at the chosen number
and at the best one uses the labels, which the choice does not see. Seconds are CPU time on one thread. The corpora: 20
Newsgroups (20 groups), aws-docs (20 services), and the docstrings of the 20 installed libraries that have the most, at
most 500 of each.
"""

import argparse
import ast
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from corpus.source import load_corpus
from training.cluster_count import AUTO, choose_clusters
from training.clustering import fit_clusters
from training.vocabulary import fit_vectorizer, without_phrases

LSA = 300
LIBRARIES = 20
DOCSTRINGS = 500
SHORTEST = 200  # characters


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", default=["20newsgroups", "aws-docs", "docstrings"], metavar="CORPUS")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    with threadpool_limits(1):
        for name in arguments.corpora:
            measure(name, arguments.seeds)


def measure(name: str, seeds: int) -> None:
    if name == "docstrings":
        documents, labels = docstrings()
    else:
        corpus = load_corpus(name)
        documents, labels = corpus.documents, corpus.labels
    vectorizing = time.process_time()
    vectorizer, weights = fit_vectorizer(documents)
    vectorizing = time.process_time() - vectorizing
    known = weights.getnnz(axis=1) > 0
    weights, labels = weights[known], np.array(labels)[known]
    print(f"\n{name}: {len(labels)} documents, {len(set(labels))} labels", flush=True)

    rows = []
    for seed in range(seeds):
        choosing = time.process_time()
        chosen, agreement = choose_clusters(without_phrases(vectorizer, weights), *AUTO, LSA, seed)
        choosing = time.process_time() - choosing
        scores, trainings = {}, []
        for number in agreement:
            training = time.process_time()
            model = fit_clusters(weights, number, LSA, True, seed, False)[1]
            trainings.append(time.process_time() - training + vectorizing)
            scores[number] = adjusted_rand_score(labels, model.labels_)
        best = max(scores, key=scores.get)
        rows.append([scores[chosen], scores[best], choosing, np.mean(trainings)])
        print(f"  seed {seed}: share reproduced and ARI: ", end="")
        print(", ".join(f"{number}: {agreement[number]:.3f} {scores[number]:.3f}" for number in agreement))
        print(
            f"  chosen {chosen}, ARI {scores[chosen]:.3f}; best {best}, {scores[best]:.3f}; "
            f"choosing {choosing:.0f} s, one training {np.mean(trainings):.0f} s",
            flush=True,
        )
    at_chosen, at_best, choosing, training = np.mean(rows, axis=0)
    print(
        f"{name}: ARI {at_chosen:.3f} at the chosen number, {at_best:.3f} at the best, {at_best - at_chosen:.3f} less; "
        f"choosing takes {choosing / training:.1f} trainings",
        flush=True,
    )


def docstrings() -> tuple[list[str], list[str]]:
    """Docstrings of installed libraries, and the library of each."""
    found: dict[str, list[str]] = {}
    for file in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        library = file.relative_to(sysconfig.get_path("purelib")).parts[0]
        found.setdefault(library, []).extend(docstrings_of(file))
    largest = sorted(found, key=lambda library: (-len(found[library]), library))[:LIBRARIES]
    generator = np.random.default_rng(0)
    chosen = [
        (text, library)
        for library in largest
        for text in generator.permutation(np.array(found[library], dtype=object))[:DOCSTRINGS]
    ]
    return [text for text, _ in chosen], [library for _, library in chosen]


def docstrings_of(file: Path) -> Iterator[str]:
    with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's code
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:  # a template, or code for another Python version
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= SHORTEST:
                yield text


if __name__ == "__main__":
    main()
