"""scripts/training/lineage.py and name_clusters.py: cluster numbers and names survive a retraining."""

import argparse
import contextlib
import json
import re

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from failure import BadInput
from support.programs import run_program
from support.services import log_of, run_training, start, start_transformer, stop, wait_until_ready
from support.topics import KEPT, QUESTIONS, TOPICS, answers, corpus_of, name_clusters
from training.cluster_changes import cluster_changes
from training.earlier_model import EarlierModel, cluster_group, read_earlier_model
from training.lineage import as_start, continue_numbers, renumber


def train(folder, *topics, seed=0, options=()):
    """Train on some topics, one cluster for each; returns the folder of the model."""
    folder.mkdir()
    corpus = corpus_of(folder / "corpus.jsonl", *topics, seed=seed)
    run = run_training(
        *("--dataset", corpus, "--clusters", len(topics), "--lsa", "20", "--seed", seed, "--output-dir", folder),
        *options,
    )
    assert run.returncode == 0, run.stderr
    (folder / "log").write_text(run.stderr)
    return folder


def summary_in(folder) -> dict:
    return json.loads((folder / "clusters.json").read_text())


def numbers_in(folder) -> list[int]:
    return [cluster["cluster"] for cluster in summary_in(folder)["clusters"]]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """Three models of one lineage: four topics; without law, on other documents; with music instead of law."""
    root = tmp_path_factory.mktemp("line")
    first = train(root / "first", "hockey", "space", "cooking", "law")
    (root / "names.txt").write_text(f"{answers(first, 'space')['space']} Raumfahrt & Sterne # for all\n\n")
    assert name_clusters(root / "names.txt", "--model-dir", first).returncode == 0
    second = train(root / "second", "hockey", "space", "cooking", seed=1, options=("--like", first))
    options = ("--like", second, "--report", "--assignments", root / "assignments.jsonl")
    options += ("--terms", root / "terms.parquet")
    third = train(root / "third", "hockey", "space", "cooking", "music", seed=2, options=options)
    return first, second, third


def test_topics_keep_their_numbers_while_others_come_and_go(line):
    first, second, third = line
    assert answers(first, *KEPT) == answers(second, *KEPT) == answers(third, *KEPT)


def test_the_number_of_a_topic_that_is_gone_is_not_reused_for_a_new_one(line):
    first, second, third = line
    gone = answers(first, "law")["law"]
    assert gone not in numbers_in(second) and gone not in numbers_in(third)
    assert answers(third, "music") == {"music": 4}
    assert set(numbers_in(third)) == {0, 1, 2, 3, 4} - {gone}


def test_the_summary_records_what_each_cluster_continues_and_of_which_model(line):
    first, second, third = map(summary_in, line)
    assert first["lineage"] == {} and not any("continues" in cluster for cluster in first["clusters"])
    assert second["lineage"]["agreement"] > 0.95 and third["lineage"]["next_number"] == 5
    assert third["lineage"]["versions"] == [
        third["lineage"]["earlier"]["version"],
        *second["lineage"]["versions"],
    ]
    (gone,) = second["lineage"]["gone"].values()
    assert gone["size"] == 40 and {term for term, _ in gone["terms"]} <= set(TOPICS["law"].split())
    for cluster in third["clusters"]:
        assert ("continues" in cluster) == (cluster["cluster"] != 4)
        if "continues" in cluster:
            assert cluster["continues"]["kept"] > 0.95 and cluster["continues"]["size"] == 40
    assert [cluster["cluster"] for cluster in third["clusters"]] == sorted(numbers_in(line[2]))


def test_log_and_report_show_the_cluster_changes(line):
    first, second, third = line
    gone, space = answers(first, "law")["law"], answers(first, "space")["space"]
    rows = [line.split() for line in (second / "log").read_text().splitlines() if "gone" in line]
    assert rows[0][0] == str(gone)
    log, page = (third / "log").read_text(), (third / "report.html").read_text()
    assert re.search(r"that --min-similarity would reject: 0\.\d+: ", log)
    assert "keep the number" in log and " new" in log and "stayed, kept 100%" in log
    assert "Cluster changes" in page and f'<b data-name="{space}">Raumfahrt &amp; Sterne</b>' in page
    assert 'id="cluster-4"' in page and f'id="cluster-{gone}"' not in page


def test_names_are_inherited_with_their_numbers(line):
    for folder in line:
        number = answers(folder, "space")["space"]
        named = {cluster["cluster"]: cluster["name"] for cluster in summary_in(folder)["clusters"] if "name" in cluster}
        assert named == {number: "Raumfahrt & Sterne"}


def test_names_stand_beside_the_numbers_in_the_assignments_of_a_training_and_of_assign_documents(line, tmp_path):
    number = answers(line[2], "space")["space"]
    run = run_program(
        *("scripts/assign_documents.py", "--dataset", line[2] / "corpus.jsonl"),
        *("--model-path", line[2] / "model.joblib", "--transformer-path", line[2] / "transformer.joblib"),
        *("--assignments", tmp_path / "again.jsonl", "--jobs", "1"),
    )
    assert run.returncode == 0, run.stderr
    for file in (line[2].parent / "assignments.jsonl", tmp_path / "again.jsonl"):
        names = {(row["cluster"], row["cluster_name"]) for row in map(json.loads, file.open())}
        assert (number, "Raumfahrt & Sterne") in names and len(names) == 4
        assert {name for cluster, name in names if cluster != number} == {None}


def test_the_table_of_terms_has_the_names_sizes_and_terms_of_the_summary(line):
    expected = [
        (cluster["cluster"], cluster.get("name"), cluster["size"], rank, *term)
        for cluster in summary_in(line[2])["clusters"]
        for rank, term in enumerate(cluster["terms"], start=1)
    ]
    table = pyarrow.parquet.read_table(line[2].parent / "terms.parquet")
    assert table.column_names == ["cluster", "cluster_name", "size", "rank", "term", "weight"]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    assert f"Wrote {line[2].parent / 'terms.parquet'}" in (line[2] / "log").read_text()


def test_names_are_written_into_an_existing_report(line, tmp_path):
    for name in ("clusters.json", "report.html"):
        (tmp_path / name).write_bytes((line[2] / name).read_bytes())
    template = name_clusters("--model-dir", tmp_path).stdout
    assert template.splitlines()[0].startswith(f"{numbers_in(tmp_path)[0]} ") and "# " in template
    (tmp_path / "names.txt").write_text("4 <Musik>\n")
    assert name_clusters(tmp_path / "names.txt", "--model-dir", tmp_path).returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert (
        '<b data-name="4">&lt;Musik&gt;</b>' in page
        and "Raumfahrt" not in page.partition("map-data")[0].partition('id="labels"')[2]
    )


@pytest.mark.parametrize("content", ["7 Seven\n", "hockey\n", "0 One\n0 Another\n"])
def test_names_of_unknown_clusters_are_refused_and_nothing_changes(line, tmp_path, content):
    (tmp_path / "clusters.json").write_bytes((line[0] / "clusters.json").read_bytes())
    (tmp_path / "names.txt").write_text(content)
    run = name_clusters(tmp_path / "names.txt", "--model-dir", tmp_path)
    assert run.returncode == 2 and "line" in run.stderr and len(run.stderr.splitlines()) == 1
    assert (tmp_path / "clusters.json").read_bytes() == (line[0] / "clusters.json").read_bytes()


@pytest.mark.parametrize(("place", "reason"), [("nowhere", "clusters.json is not there"), ("s3://", "names no bucket")])
def test_a_missing_earlier_model_is_refused(tmp_path, place, reason):
    corpus = corpus_of(tmp_path / "corpus.jsonl", "hockey", "space")
    run = run_training("--dataset", corpus, "--clusters", 2, "--like", place, "--output-dir", tmp_path / "out")
    errors = [line for line in run.stderr.splitlines() if " ERROR " in line]
    assert run.returncode == 2 and len(errors) == 1 and reason in errors[0], run.stderr
    assert not (tmp_path / "out").exists()


def test_services_of_both_models_give_a_text_the_same_number_and_name(line):
    """As in a canary: each transformer uses the predictor of its own model."""
    started = []
    try:
        answered = []
        for folder in (line[0], line[2]):
            (folder / "served").mkdir(exist_ok=True)
            (folder / "served/model.joblib").unlink(missing_ok=True)
            (folder / "served/model.joblib").symlink_to(folder / "model.joblib")
            predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", folder / "served")
            started += [predictor, start_transformer(folder, predictor, "v2")]
            wait_until_ready(started[-2]), wait_until_ready(started[-1])
            texts = [QUESTIONS[topic] for topic in KEPT]
            explained = started[-1].post("explain", {"instances": [QUESTIONS["space"]]})[1]["explanations"][0]
            answered.append((started[-1].predict(texts), explained["cluster"], explained["name"]))
        assert answered[0] == answered[1]
        assert started[-1].predict([QUESTIONS["music"]]) == [4]
        assert 'about="Raumfahrt & Sterne"' in started[-1].metrics(), log_of(started[-1])
    finally:
        for service in started:
            stop(service)


def test_merged_clusters_are_one_under_the_first_number_and_the_name_of_that(line, tmp_path):
    numbers = answers(line[0], "hockey", "space", "cooking", "law")
    merged = f"{numbers['space']}+{numbers['law']}"
    corpus, output = line[0] / "corpus.jsonl", tmp_path / "out"
    options = ("--dataset", corpus, "--like", line[0], "--lsa", 20, "--output-dir", output)
    run = run_training(*options, "--merge", merged)
    assert run.returncode == 0, run.stderr
    assert answers(output, *numbers) == numbers | {"law": numbers["space"]}
    summary = summary_in(output)
    assert {cluster["cluster"]: cluster.get("name") for cluster in summary["clusters"]} == {
        numbers["hockey"]: None,
        numbers["cooking"]: None,
        numbers["space"]: "Raumfahrt & Sterne",
    }
    assert summary["lineage"]["gone"][str(numbers["law"])]["to"] == {str(numbers["space"]): 1.0}
    assert summary["lineage"]["merged"] == {str(numbers["law"]): numbers["space"]}
    changes = run.stderr.partition("Cluster changes:")[2]
    assert f"gone, merged into {numbers['space']} (100% of it)" in changes
    assert f"grew, kept 100%; gained from {numbers['law']} (50%)" in changes and changes.count("stayed, kept 100%") == 2


def test_a_merge_of_unknown_clusters_is_refused_before_the_training(line, tmp_path):
    options = ("--dataset", line[0] / "corpus.jsonl", "--output-dir", tmp_path / "out", "--like", line[0])
    run = run_training(*options, "--merge", "0+9")
    assert run.returncode == 2 and "has no cluster 9; it has 0, 1, 2, 3." in run.stderr.splitlines()[-1], run.stderr
    assert "Reading" not in run.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("merges", "reason"),
    [
        ([[0, 1], [2, 1]], "--merge names cluster 1 twice"),
        ([[0, 0]], "--merge names cluster 0 twice"),
        ([[0, 1, 2, 3]], "all clusters into one"),
        ([[0, 1], [2, 3]], None),
    ],
)
def test_clusters_are_merged_once_and_not_all_into_one(line, merges, reason):
    expectation = pytest.raises(BadInput, match=reason) if reason else contextlib.nullcontext()
    with expectation:
        assert read_earlier_model(str(line[0]), "", merges).merged == {1: 0, 3: 2}


@pytest.mark.parametrize("text", ["3", "3+", "a+b", "3,7", "+3+7"])
def test_a_group_of_clusters_is_two_numbers_or_more(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not two or more cluster numbers such as 3\\+7"):
        cluster_group(text)
    assert cluster_group("3+7+12") == [3, 7, 12]


# --- Functions ------------------------------------------------------------------------------------


def test_placeholder_centroids_of_unused_numbers_are_never_nearest():
    vectors = normalize(np.random.default_rng(0).normal(size=(500, 8)))
    model = KMeans(4, n_init=1, random_state=0).fit(vectors)
    before = model.predict(vectors)
    numbers = [7, 0, 3, 11]
    assert renumber(model, numbers).predict(vectors).tolist() == [numbers[cluster] for cluster in before]
    assert model.labels_.tolist() == [numbers[cluster] for cluster in before]


def continuation_of(old: list[int], new: list[int], next_number=None, similarities=None, merged=None):
    """The continuation of documents' old numbers by new clusters, and the description of each change.

    Args:
        similarities: of the documents to their old clusters, whose training documents had at least 0.5.
    """
    numbers, sizes = np.unique(old, return_counts=True)
    constant = {"terms": [["word", 1.0]], "similarity": {"0.05": 0.5}}
    clusters = [{"cluster": int(n), "size": int(size), **constant} for n, size in zip(numbers, sizes)]
    similarities = np.array(similarities or [0.9] * len(old))
    lineage = {"next_number": next_number, "versions": ["v0"]} if next_number else {}
    summary = {"created": "2026", "dataset": {"documents": len(old)}, "clusters": clusters, "lineage": lineage}
    earlier = EarlierModel("v1", summary, None, None, merged or {})
    continuation = continue_numbers(earlier, np.array(old), similarities, np.array(new), max(new) + 1)
    sizes = np.bincount(new)
    described = [
        {"cluster": number, "size": int(sizes[place]), "terms": [["word", 1.0]], **inherited}
        for place, (number, inherited) in enumerate(zip(continuation.numbers, continuation.inherited))
    ]
    summary = {"clusters": described, "lineage": continuation.lineage, "dataset": {"documents": len(new)}}
    return continuation, {row["cluster"]: row["change"] for row in cluster_changes(summary)}


def test_a_new_cluster_starts_from_the_documents_least_similar_to_the_earlier_clusters():
    summary = {"clusters": [{"cluster": 0, "size": 50}, {"cluster": 4, "size": 50}]}
    assigned, similarities = np.repeat([0, 4], [60, 40]), np.linspace(0, 1, 100)
    earlier = EarlierModel("v1", summary, None, None)
    assert as_start(earlier, assigned, similarities, 2).tolist() == [0] * 60 + [1] * 40
    assert as_start(earlier, assigned, similarities, 3).tolist() == [-1] * 5 + [0] * 55 + [1] * 40


def test_the_larger_part_of_a_split_cluster_keeps_its_number():
    continuation, what = continuation_of([0] * 10 + [1] * 10, [1] * 10 + [0] * 6 + [2] * 4)
    assert continuation.numbers == [1, 0, 2]
    assert what == {0: "stayed, kept 100%", 1: "shrank, kept 60%; lost to 2 (40%)", 2: "new, split from 1 (100% of it)"}


def test_a_new_topic_that_outnumbers_an_earlier_cluster_does_not_take_its_number():
    """The earlier model puts the 20 texts of a topic that it does not know into cluster 1, which has 5 of its own."""
    old, new, far = [0] * 10 + [1] * 25, [0] * 10 + [1] * 5 + [2] * 20, [0.9] * 15 + [0.2] * 20
    continuation, _ = continuation_of(old, new, similarities=far)
    assert continuation.numbers == [0, 1, 2]


def test_a_cluster_whose_documents_have_all_changed_keeps_its_number():
    continuation, _ = continuation_of([0] * 10 + [1] * 10, [0] * 10 + [1] * 10, similarities=[0.9] * 10 + [0.2] * 10)
    assert continuation.numbers == [0, 1]


def test_merged_clusters_keep_the_number_of_the_larger():
    continuation, what = continuation_of([5] * 6 + [8] * 4 + [2] * 10, [0] * 10 + [1] * 10)
    assert continuation.numbers == [5, 2]
    assert what[8] == "gone, merged into 5 (100% of it)"
    assert what[5] == "grew, kept 100%; gained from 8 (40%)"


def test_a_small_cluster_survives_a_merge_with_large_ones():
    continuation, what = continuation_of(
        [3] * 2 + [7] * 8 + [9] * 9 + [1] * 10, [0] * 19 + [1] * 10, merged={7: 3, 9: 3}
    )
    assert continuation.numbers == [3, 1] and continuation.lineage["next_number"] == 10
    assert what[7] == "gone, merged into 3 (100% of it)" == what[9] and what[1] == "stayed, kept 100%"
    summary = {"clusters": [{"cluster": number, "size": 10} for number in (1, 3, 7)]}
    earlier = EarlierModel("v1", summary, None, None, {7: 3})
    assert as_start(earlier, np.array([1, 3, 7, 7, -1]), np.ones(5), 2).tolist() == [1, 0, 0, 0, -1]


def test_a_number_of_an_earlier_model_is_never_reused():
    continuation, _ = continuation_of([0] * 10 + [1] * 10, [0] * 10 + [1] * 5 + [2] * 5, next_number=6)
    assert sorted(continuation.numbers) == [0, 1, 6] and continuation.lineage["next_number"] == 7
    assert continuation.lineage["versions"] == ["v1", "v0"]


def test_documents_that_the_earlier_model_cannot_assign_are_reported(line, tmp_path):
    """Half of the texts have no term of the earlier model's vocabulary."""
    corpus = corpus_of(tmp_path / "corpus.jsonl", "hockey", "music")
    options = ("--like", line[0], "--clusters", 2, "--lsa", 20, "--report", "--output-dir", tmp_path / "out")
    run = run_training("--dataset", corpus, *options)
    assert run.returncode == 0 and "40 further documents have no term of the earlier model's vocabulary" in run.stderr
    assert summary_in(tmp_path / "out")["lineage"]["unassigned"] == 40
    assert "A further 40 documents have no term of its vocabulary" in (tmp_path / "out/report.html").read_text()
