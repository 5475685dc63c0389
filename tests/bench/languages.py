#!/usr/bin/env python
"""Measure tokenization: clusters in other scripts compared with those of character n-grams, and microseconds per text.

python tests/bench/languages.py             the small corpora in tests/languages
python tests/bench/languages.py FILE ...    other corpora: .jsonl with "text" and "label"
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import v_measure_score
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from corpus.source import Corpus, load_corpus
from training.clustering import fit_clusters
from training.vocabulary import fit_vectorizer

CORPORA = sorted(Path(__file__).resolve().parents[1].glob("languages/*.jsonl"))
NGRAMS = [(1, 2), (1, 3), (2, 3), (2, 4)]
SEEDS = 5


def main():
    print(f"{'V-measure':24}words" + "".join(f"{f'{low} to {high} characters':>20}" for low, high in NGRAMS))
    for path in sys.argv[1:] or CORPORA:
        corpus = load_corpus(str(path))
        ngrams = "".join(f"{character_ngrams(corpus, lengths):20.2f}" for lengths in NGRAMS)
        print(f"{Path(path).stem:24}{words(corpus):.2f} {ngrams}", flush=True)

    texts = [document[:140] for document in load_corpus("aws-docs").documents[:2_000]]
    for name, vectorizer in {
        "scikit-learn's default": TfidfVectorizer(),
        "three letters or more": TfidfVectorizer(token_pattern=r"(?u)\b[^\W\d_]\w{2,}\b"),
        "words.py": fit_vectorizer(texts)[0],
    }.items():
        print(f"{name:24}{microseconds(vectorizer.build_analyzer(), texts):5.1f} us of CPU for an English text")


def words(corpus: Corpus, seeds: int = SEEDS) -> float:
    """V-measure of the project's clusters, mean over seeds."""
    _, weights = fit_vectorizer(corpus.documents)
    dimensions = min(100, min(weights.shape) - 1)
    return score(
        corpus, seeds, lambda seed: fit_clusters(weights, clusters(corpus), dimensions, True, seed, False)[1].labels_
    )


def character_ngrams(corpus: Corpus, lengths: tuple[int, int], seeds: int = SEEDS) -> float:
    """V-measure of TF-IDF of character n-grams and k-means, mean over seeds."""
    weights = TfidfVectorizer(analyzer="char", ngram_range=lengths).fit_transform(corpus.documents)
    return score(
        corpus, seeds, lambda seed: KMeans(clusters(corpus), n_init=10, random_state=seed).fit(weights).labels_
    )


def clusters(corpus: Corpus) -> int:
    return len(set(corpus.labels))


def score(corpus: Corpus, seeds: int, cluster) -> float:
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters
        return float(np.mean([v_measure_score(corpus.labels, cluster(seed)) for seed in range(seeds)]))


def microseconds(analyze, texts: list[str]) -> float:
    """CPU time per text, the minimum of several rounds."""
    rounds = []
    for _ in range(9):
        start = time.process_time()
        for text in texts:
            analyze(text)
        rounds.append(time.process_time() - start)
    return min(rounds) / len(texts) * 1e6


if __name__ == "__main__":
    main()
