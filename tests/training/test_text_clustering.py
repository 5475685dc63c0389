"""scripts/text_clustering.py, run from the command line."""

import gzip
import json
import os
import re
import resource
import shutil
import signal
import time

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import Normalizer

from corpus.builtin import parse_post
from model import artefacts as contract
from support.programs import started
from support.services import run_training

FILES = ["clusters.json", "model.joblib", "transformer.joblib"]

TOPICS = {
    "hockey": ["goalie", "puck", "rink", "playoff", "skates", "referee", "overtime"],
    "space": ["orbit", "shuttle", "rocket", "lunar", "telescope", "astronaut", "launch"],
    "cooking": ["oven", "butter", "recipe", "flour", "simmer", "garlic", "skillet"],
}


def small_corpus(documents_per_topic=10) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"text": " ".join(rng.choice(words, 6)), "label": label}
        for label, words in TOPICS.items()
        for _ in range(documents_per_topic)
    ]


def write_jsonl(path, rows):
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def train_small(tmp_path, *options, rows=None, **program):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows or small_corpus())
    return run_training(
        *("--dataset", corpus, "--clusters", "3", "--lsa", "5", "--output-dir", tmp_path / "out"), *options, **program
    )


@pytest.fixture(scope="module")
def small_training(tmp_path_factory):
    """The folder and the run of a training on the small corpus, for tests that only read them."""
    folder = tmp_path_factory.mktemp("small")
    return folder, train_small(folder)


def summary_in(folder) -> dict:
    return json.loads((folder / "clusters.json").read_text())


def test_training_writes_stock_scikit_learn_objects_that_belong_together(artefacts, corpus):
    model = joblib.load(artefacts / "model.joblib")
    pipeline = joblib.load(artefacts / "transformer.joblib")
    assert type(model) in (KMeans, MiniBatchKMeans)
    assert [type(step) for _, step in pipeline.steps] == [TfidfVectorizer, TruncatedSVD, Normalizer]

    summary = summary_in(artefacts)
    for name in ("model.joblib", "transformer.joblib"):
        assert contract.sha256(artefacts / name) == summary["sha256"][name]

    vectors = pipeline.transform(corpus.documents)
    assert np.array_equal(model.predict(vectors[vectors.any(axis=1)]), model.labels_)


def test_the_summary_has_the_baseline(artefacts):
    summary = summary_in(artefacts)
    for similarity in [summary["baseline"]["similarity"], *(c["similarity"] for c in summary["clusters"])]:
        values = [similarity[quantile] for quantile in ("0.05", "0.25", "0.5", "0.75", "0.95")]
        assert values == sorted(values) and 0 < values[0] < values[-1] <= 1
    assert sum(cluster["share"] for cluster in summary["clusters"]) == pytest.approx(1)
    assert summary["baseline"]["unknown"] == 0


def test_summary_describes_every_cluster(artefacts):
    summary = summary_in(artefacts)
    assert summary["dataset"]["name"] == "aws-docs" and summary["dataset"]["labels"] == 20
    assert [cluster["cluster"] for cluster in summary["clusters"]] == list(range(20))
    sizes = sum(cluster["size"] for cluster in summary["clusters"])
    assert sizes + summary["dataset"]["unknown"] == summary["dataset"]["documents"]
    for cluster in summary["clusters"]:
        weights = [weight for _, weight in cluster["terms"]]
        assert len(weights) == 10 and weights == sorted(weights, reverse=True) and weights[-1] > 0
        assert 1 <= len(cluster["titles"]) <= 5
    assert summary["versions"]["scikit-learn"] == "1.5.2"
    assert summary["metrics"]["v_measure"] > 0.4


def test_documents_without_an_in_vocabulary_term_are_in_no_cluster(tmp_path):
    strangers = [{"text": word, "label": "other"} for word in ("aardvark", "zeppelin", "quixotic")]
    run = train_small(tmp_path, "--report", rows=small_corpus() + strangers)
    assert "3 of 33 documents have no in-vocabulary term" in run.stderr
    summary = summary_in(tmp_path / "out")
    expected = {"documents": 33, "labels": 4, "unknown": 3, "left_out": {}}
    assert summary["dataset"] == {"name": summary["dataset"]["name"], **expected}
    assert summary["baseline"]["unknown"] == pytest.approx(3 / 33)
    assert sum(cluster["size"] for cluster in summary["clusters"]) == 30
    assert not {"aardvark", "zeppelin"} & {title for cluster in summary["clusters"] for title in cluster["titles"]}
    assert summary["metrics"]["adjusted_rand_index"] == 1, "the scores are over documents in clusters"
    assert "without the 3 without an in-vocabulary term" in (tmp_path / "out/report.html").read_text()


def test_same_seed_gives_the_same_clusters(tmp_path):
    centroids = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        train_small(tmp_path / attempt, "--seed", "7")
        centroids.append(joblib.load(tmp_path / attempt / "out/model.joblib").cluster_centers_)
    assert np.array_equal(*centroids)


def test_no_minibatch_trains_ordinary_k_means(tmp_path):
    train_small(tmp_path, "--no-minibatch")
    assert type(joblib.load(tmp_path / "out/model.joblib")) is KMeans


def test_log_shows_the_scores_and_the_top_terms(small_training):
    _, run = small_training
    for word in ("30 documents", "V-measure", "Adjusted Rand index", "Silhouette", "Explained variance"):
        assert word in run.stderr
    assert re.search(r"Top terms per cluster:\nCluster 0: \w+, \w+.*\nCluster 1: ", run.stderr)
    assert "\x1b[" not in run.stderr, "colour although stderr is not a terminal"


def test_separable_topics_are_separated(small_training):
    folder, _ = small_training
    assert summary_in(folder / "out")["metrics"]["adjusted_rand_index"] == 1


def test_a_post_is_reduced_to_subject_and_body():
    post = "From: someone@mail.host\nSubject: Re: Leaky pucks\nNNTP-Posting-Host: news.host\n\nThe body.\n\nIts end."
    title, document = parse_post(post)
    assert title == "Leaky pucks"
    assert "The body.\n\nIts end." in document and "Leaky pucks" in document
    assert "host" not in document


def test_a_corpus_without_labels_has_no_metrics_that_need_them(tmp_path):
    train_small(tmp_path, rows=[{"text": row["text"]} for row in small_corpus()])
    assert set(summary_in(tmp_path / "out")["metrics"]) == {"explained_variance", "silhouette"}


def test_rows_without_label_are_clustered_but_not_scored(tmp_path):
    rows = small_corpus()
    rows[0]["label"] = rows[11]["label"] = None
    rows.append({"text": None, "label": "hockey"})
    run = train_small(tmp_path, "--report", rows=rows)
    assert "28 of 30 documents have a label" in run.stderr
    summary = summary_in(tmp_path / "out")
    assert summary["metrics"]["adjusted_rand_index"] == 1
    assert summary["dataset"]["documents"] == 30 and summary["dataset"]["labels"] == 3
    assert summary["dataset"]["left_out"] == {"rows without text": 1}


def test_a_bad_dataset_is_refused_and_nothing_written(tmp_path):
    table = tmp_path / "corpus.csv"
    table.write_text("body,label\nhello,a\n")
    assert_refused(run_training("--dataset", table, "--output-dir", tmp_path / "out"), "no column 'text'")
    assert not (tmp_path / "out").exists()


def test_options_name_columns_encoding_and_separator(tmp_path):
    table = tmp_path / "corpus.csv"
    rows = [f"{row['text']} größe~{row['label']}" for row in small_corpus()]
    table.write_text("\n".join(["Body~Team", *rows]), encoding="cp850")
    options = ("--text-column", "body", "--label-column", "team", "--encoding", "cp850", "--separator", "~")
    run = run_training("--dataset", table, *options, "--clusters", "3", "--output-dir", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "table, cp850, separator '~', text in 'Body', label in 'Team'" in run.stderr
    assert summary_in(tmp_path / "out")["metrics"]["adjusted_rand_index"] == 1
    assert "größe" in summary_in(tmp_path / "out")["clusters"][0]["titles"][0]


TOO_LITTLE = {
    "fewer documents than clusters": (["hello world"], "has 1 documents, fewer than the requested 20 clusters"),
    "no terms in common": ([f"{1000 + n}" for n in range(30)], "no terms"),
    "the same terms": ([f"a b 1 2 {n}" for n in range(30)], "All documents have the same terms"),
    "one text": (["the printer is out of paper"] * 40, "All 40 documents"),
    "few different texts": (["no paper", "no ink", "no power"] * 20, "60 documents, 3 of them different"),
}


@pytest.mark.parametrize("case", TOO_LITTLE)
def test_a_corpus_that_is_too_small_is_refused_with_the_reason(tmp_path, case):
    documents, reason = TOO_LITTLE[case]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in documents])
    assert_refused(run_training("--dataset", corpus, "--output-dir", tmp_path / "out"), reason)


def test_empty_clusters_are_reported_in_one_warning_with_a_suggestion(tmp_path):
    rows = [
        {"text": f"{text} {n}"} for n, text in enumerate(["paper tray", "paper tray", "ink leaks", "ink leaks"] * 5)
    ]
    warnings = [line for line in train_small(tmp_path, rows=rows).stderr.splitlines() if " WARNING " in line]
    assert len([line for line in warnings if "clusters" in line]) == 1
    assert any("Only 2 of 3 clusters have documents" in line for line in warnings)


def test_a_missing_dataset_is_refused(tmp_path):
    assert_refused(
        run_training("--dataset", tmp_path / "nowhere", cwd=tmp_path), "--dataset takes 20newsgroups, aws-docs"
    )


def test_newsgroups_without_network_names_the_alternatives(tmp_path):
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    run = run_training("--data-home", tmp_path, "--output-dir", tmp_path / "out", env=os.environ | nowhere)
    assert_refused(run, "could not be downloaded")
    assert "--dataset aws-docs needs no network" in run.stderr
    assert not (tmp_path / "out").exists()


def assert_refused(run, reason):
    assert run.returncode == 2
    errors = [line for line in run.stderr.splitlines() if " ERROR " in line]
    assert len(errors) == 1 and reason in errors[0], run.stderr
    assert "Traceback" not in run.stderr


def test_a_full_disk_leaves_the_previous_files_unchanged(tmp_path, small_training):
    shutil.copytree(small_training[0], tmp_path, dirs_exist_ok=True)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    run = train_small(tmp_path, "--seed", "1", prepare=limit_file_size)
    assert run.returncode == 1 and "(nothing was written)" in run.stderr and "Traceback" not in run.stderr
    assert {name: (tmp_path / "out" / name).read_bytes() for name in FILES} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES


def limit_file_size():
    """Makes writing the transformer, the largest file, fail as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_failed_replacement_restores_the_previous_files(tmp_path, monkeypatch):
    source, target = tmp_path / "new", tmp_path / "out"
    for folder, content in ((source, "new"), (target, "old")):
        folder.mkdir()
        for name in FILES:
            (folder / name).write_text(content)

    replace = os.replace

    def fail_on_the_last_new_file(old, new):
        if str(old) == str(source / names[-1]) and str(new) == str(target / names[-1]):
            raise OSError("read-only")
        replace(old, new)

    names = [path.name for path in source.iterdir()]
    monkeypatch.setattr(os, "replace", fail_on_the_last_new_file)
    with pytest.raises(OSError, match="read-only"):
        contract.replace_all(source, target)
    assert {(target / name).read_text() for name in FILES} == {"old"}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_nothing_and_shows_no_traceback(tmp_path, stop):
    command = ["scripts/text_clustering.py", "--dataset", "aws-docs", "--output-dir", tmp_path]
    with started(*command) as process:
        first_line = process.stderr.readline()
        assert "Reading aws-docs" in first_line
        time.sleep(0.5)
        process.send_signal(stop)
        errors = process.stderr.read()
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_more_dimensions_than_documents_are_reduced_with_a_warning(tmp_path):
    run = train_small(tmp_path, "--lsa", "500")
    assert run.returncode == 0 and "WARNING" in run.stderr
    assert summary_in(tmp_path / "out")["settings"]["lsa"] < 30


@pytest.mark.parametrize("clusters", ["1", "30"])
def test_any_number_of_clusters_up_to_the_number_of_documents_is_trained(tmp_path, clusters):
    run = train_small(tmp_path, "--clusters", clusters)
    assert run.returncode == 0, run.stderr
    assert len(summary_in(tmp_path / "out")["clusters"]) == int(clusters)


def test_half_a_surrogate_pair_in_json_is_accepted(tmp_path):
    rows = small_corpus()
    rows[0]["title"] = "\ud800"
    assert train_small(tmp_path, rows=rows).returncode == 0
