"""scripts/training/cluster_count.py: the number of clusters is chosen without labels."""

import argparse
import json

import numpy as np
import pytest

from support.services import run_training
from training.cluster_count import best, choose_clusters, cluster_numbers
from training.vocabulary import fit_vectorizer


@pytest.mark.parametrize("topics", [4, 7])
def test_the_number_of_plain_topics_is_found(topics):
    rng = np.random.default_rng(0)
    shared = [f"shared{n}" for n in range(30)]
    documents = [
        " ".join([*rng.choice([f"topic{topic}word{n}" for n in range(15)], 5), *rng.choice(shared, 5)])
        for topic in range(topics)
        for _ in range(60)
    ]
    _, weights = fit_vectorizer(documents)
    chosen, agreement = choose_clusters(weights, 2, 12, 30, 0)
    assert chosen == topics and agreement[chosen] > 0.9


def test_the_largest_number_within_a_standard_error_of_the_best_is_chosen():
    assert best({5: [0.3, 0.3], 10: [0.63, 0.63], 20: [0.6, 0.6], 40: [0.5, 0.5]}) == 20
    assert best({8: [0.7, 0.9], 16: [0.6, 0.64], 32: [0.5, 0.5]}) == 16
    assert best({8: [0.8, 0.8], 16: [0.6, 0.64], 32: [0.5, 0.5]}) == 8


def test_arguments():
    assert cluster_numbers("20") == (20, 20) and cluster_numbers("10-40") == (10, 40)
    assert cluster_numbers("auto") == (5, 50)
    for text in ("0", "many", "40-10", "10-", "-5"):
        with pytest.raises(argparse.ArgumentTypeError):
            cluster_numbers(text)


def test_a_range_is_tried_and_the_curve_shown(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"text": " ".join(rng.choice([f"topic{topic}word{n}" for n in range(15)], 8))}
        for topic in range(4)
        for _ in range(30)
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_training(
        *("--dataset", tmp_path / "corpus.jsonl", "--clusters", "2-6", "--lsa", "20", "--report"),
        *("--output-dir", tmp_path),
    )
    assert run.returncode == 0 and "Chose 4 clusters" in run.stderr, run.stderr
    summary = json.loads((tmp_path / "clusters.json").read_text())
    assert len(summary["clusters"]) == summary["settings"]["clusters"] == 4
    assert list(summary["agreement_of_halves"]) == ["2", "3", "4", "5", "6"]
    page = (tmp_path / "report.html").read_text()
    assert "Number of clusters" in page and "4 clusters: 1.000" in page
