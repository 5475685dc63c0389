"""Fitted on a sample, every document assigned: scripts/assignment/parallel.py, cluster_statistics.py and assign_documents.py."""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pyarrow.parquet
import pytest
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from assign_documents import load_assigner
from assignment.assignment_file import Selection, assignment_file
from assignment.table_file import without_formula
from corpus.documents import Batch
from model.artefacts import ArtefactError
from model.assigner import Assigned, Assigner
from model.clusters import NO_CLUSTER
from support.programs import ROOT, run_program, started
from support.services import run_training, start, start_transformer, stop, wait_until_ready
from training.cluster_statistics import ClusterStatistics

TOPICS = 4
DOCUMENTS = 6_000  # two batches
STRANGERS = (17, 4_500)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of a few topics, two rows of which have no word in common with any other."""
    rng = np.random.default_rng(0)
    words = [[f"topic{topic}word{chr(97 + n)}" for n in range(20)] for topic in range(TOPICS)]
    path = tmp_path_factory.mktemp("table") / "corpus.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "title"])
        for number in range(1, DOCUMENTS + 1):
            topic = rng.integers(TOPICS)
            text = f"stranger{chr(96 + number % 26)}" if number in STRANGERS else " ".join(rng.choice(words[topic], 8))
            writer.writerow([text, f"topic {topic}", f"number {number}"])
    return path


def train(table, folder, *options):
    options = (
        "--dataset",
        table,
        "--sample",
        "500",
        "--clusters",
        TOPICS,
        "--lsa",
        "10",
        "--output-dir",
        folder,
        *options,
    )
    return run_training(*options)


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    """The folder of a model that was fitted on a sample, with assignments.parquet."""
    folder = tmp_path_factory.mktemp("model")
    run = train(table, folder, "--jobs", "2", "--assignments", folder / "assignments.parquet")
    assert run.returncode == 0, run.stderr
    return folder


def paths(folder):
    return ("--model-path", folder / "model.joblib", "--transformer-path", folder / "transformer.joblib")


def assign(*options, **popen):
    return run_program("scripts/assign_documents.py", *options, **popen)


def test_fitted_on_a_sample_the_summary_is_about_all_documents(model):
    summary = json.loads((model / "clusters.json").read_text())
    assert summary["settings"]["sample"] == 500
    assert summary["dataset"]["documents"] == DOCUMENTS and summary["dataset"]["unknown"] == len(STRANGERS)
    assert sum(cluster["size"] for cluster in summary["clusters"]) == DOCUMENTS - len(STRANGERS)
    assert summary["metrics"]["v_measure"] == pytest.approx(1)
    assert summary["baseline"]["unknown"] == len(STRANGERS) / DOCUMENTS


def test_assignments_are_what_the_stock_pipeline_and_model_answer(model, table):
    rows = pyarrow.parquet.read_table(model / "assignments.parquet").to_pylist()
    documents = list(csv.DictReader(table.open(newline="")))
    assert [row["document"] for row in rows] == [str(n) for n in range(1, DOCUMENTS + 1)]
    assert [row["title"] for row in rows] == [document["title"] for document in documents]
    vectors = joblib.load(model / "transformer.joblib").transform([document["text"] for document in documents])
    kmeans = joblib.load(model / "model.joblib")
    strangers = [n for n, row in enumerate(rows, start=1) if row["cluster"] == NO_CLUSTER]
    assert strangers == list(STRANGERS)
    assert {rows[n - 1][name] for n in strangers for name in ("similarity", "runner_up", "runner_up_similarity")} == {
        None
    }
    known = [row["cluster"] != NO_CLUSTER for row in rows]
    vectors, rows = vectors[known], [row for row in rows if row["cluster"] != NO_CLUSTER]
    nearest, second = np.argsort(kmeans.transform(vectors), axis=1)[:, :2].T
    cosines = vectors @ normalize(kmeans.cluster_centers_).T
    places = np.arange(len(rows))
    assert np.array_equal(kmeans.predict(vectors), [row["cluster"] for row in rows])
    assert np.array_equal(second, [row["runner_up"] for row in rows])
    assert np.allclose(cosines[places, nearest], [row["similarity"] for row in rows])
    assert np.allclose(cosines[places, second], [row["runner_up_similarity"] for row in rows])


def test_batch_prediction_answers_what_the_service_answers(model, tmp_path):
    texts = [
        "topic1worda topic1wordb",
        "topic2wordc",
        "nothing known",
        "topic0wordd topic3worde topic3wordf",
        "qwertzu",
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = ("--dataset", tmp_path / "texts.jsonl", *paths(model), "--assignments", tmp_path / "out.jsonl")
    run = assign(*options)
    assert run.returncode == 0 and "5 documents, 2 of them without an in-vocabulary term (-1)\n" in run.stderr, (
        run.stderr
    )
    rows = list(map(json.loads, (tmp_path / "out.jsonl").open()))
    lowest, higher, _ = sorted(row["similarity"] for row in rows if row["similarity"])
    least = f"{(lowest + higher) / 2:.4f}"
    run = assign(*options, "--min-similarity", least, "--top", TOPICS + 1, "--overwrite")
    assert f" 2 of them without an in-vocabulary term (-1), 1 less similar than {least} (-1)\n" in run.stderr, (
        run.stderr
    )
    listing = list(map(json.loads, (tmp_path / "out.jsonl").open()))
    rejecting = [{name: value for name, value in row.items() if not name.startswith("top_")} for row in listing]
    assert rejecting == [row | {"cluster": -1} if row["similarity"] == lowest else row for row in rows]
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.joblib").symlink_to(model / "model.joblib")
    predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", tmp_path / "model")
    service = start_transformer(model, predictor, "v1", "--min-similarity", least)
    try:
        wait_until_ready(predictor), wait_until_ready(service)
        assert [row["cluster"] for row in rejecting] == service.predict(texts)
        explanations = service.post("explain", {"instances": texts, "top": TOPICS})[1]["explanations"]
        counts = {name: counted(service, name) for name in ("documents", "rejected_documents")}
    finally:
        stop(service), stop(predictor)
    for row, nearest, explanation in zip(listing, rows, explanations):
        assert row["cluster"] == explanation["cluster"]
        assert row["similarity"] == pytest.approx(explanation["similarity"])
        runner_up = explanation["runner_up"] or {"cluster": None, "similarity": None}
        assert row["runner_up"] == runner_up["cluster"]
        assert row["runner_up_similarity"] == pytest.approx(runner_up["similarity"])
        described = explanation["nearest"] + [{}] * (TOPICS + 1 - len(explanation["nearest"]))
        for place, cluster in enumerate(described, start=1):
            assert row[f"top_{place}"] == cluster.get("cluster") and row[f"top_{place}_name"] == cluster.get("name")
            assert row[f"top_{place}_similarity"] == pytest.approx(cluster.get("similarity"))
        if row["similarity"] == lowest:
            assert explanation["nearest"][0]["cluster"] == nearest["cluster"] != explanation["cluster"]
            assert explanation["min_similarity"] == float(least) and not explanation["top_terms"]
    # The drift rules compare with a training that rejects nothing, so a rejected document counts in its nearest cluster.
    assert counts["documents"] == dict.fromkeys(range(TOPICS), 0) | Counter(row["cluster"] for row in rows)
    assert sum(counts["rejected_documents"].values()) == 1
    assert counts["rejected_documents"][next(row["cluster"] for row in rows if row["similarity"] == lowest)] == 1


def counted(service, name: str) -> dict[int, int]:
    """A counter of the service by cluster."""
    samples = re.findall(
        rf'^textclustering_{name}_total{{cluster="(-?\d+)",.*}} (\S+)$', service.metrics(), re.MULTILINE
    )
    return {int(cluster): int(float(count)) for cluster, count in samples}


def test_a_minimum_similarity_needs_centroids(model, tmp_path):
    shutil.copy(model / "transformer.joblib", tmp_path)
    options = ("--transformer-path", tmp_path / "transformer.joblib", "--predictor_host", "localhost")
    run = run_program("transformer.py", "--min-similarity", "0.4", *options)
    assert run.returncode == 1 and "--min-similarity needs the centroids in" in run.stderr


@pytest.mark.parametrize("name", ["out.csv", "out.CSV.gz", "out.jsonl.gz"])
def test_every_form_of_assignments_holds_the_same_rows(model, table, tmp_path, name):
    run = assign("--dataset", table, *paths(model), "--assignments", tmp_path / name, "--jobs", "1")
    assert run.returncode == 0, run.stderr
    expected = pyarrow.parquet.read_table(model / "assignments.parquet").to_pylist()
    content = (tmp_path / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode()
    if "csv" in name.casefold():
        rows = [list(row.values()) for row in csv.DictReader(text.splitlines())]
        assert rows == [["" if value is None else str(value) for value in row.values()] for row in expected]
    else:
        assert list(map(json.loads, text.splitlines())) == expected
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


FORMULAS = [
    '=HYPERLINK("http://example.org")',
    "+1",
    "-2+3",
    "@SUM(A1)",
    " =1",
    "'=1",
    "''+1",
    "＝1",
    "a;=1",
    "a;'=1;b",
    "\t=1",
]
HARMLESS = ["a=b", "'quoted'", "3 - 2", "mail@example.org", "", "a; b"]


@pytest.mark.parametrize("text", [*FORMULAS, *HARMLESS])
def test_csv_has_no_formulas_and_the_documented_inverse_restores_the_text(text):
    cell = without_formula(text)
    assert (cell != text) == (text in FORMULAS)
    for part in cell.split(";"):
        assert not part.lstrip().startswith(tuple("=+-@＝＋－＠")) and not part.startswith("\t")
    assert re.sub(r"(^|;)'(?='*\s*[=+\-@\t\r＝＋－＠])", r"\1", cell) == text


def test_titles_that_are_formulas_are_text_in_csv_and_unchanged_elsewhere(model, tmp_path):
    (tmp_path / "in.csv").write_text("text,title\nhockey game,\"=cmd|' /C calc'!A0\"\n")
    for name, title in [("out.csv", "'=cmd|' /C calc'!A0"), ("out.jsonl", "=cmd|' /C calc'!A0")]:
        run = assign("--dataset", tmp_path / "in.csv", *paths(model), "--assignments", tmp_path / name)
        assert run.returncode == 0, run.stderr
        lines = (tmp_path / name).read_text().splitlines()
        row = next(csv.DictReader(lines)) if name == "out.csv" else json.loads(lines[0])
        assert row["title"] == title


def test_a_name_that_says_no_form_is_refused_before_anything_is_read():
    run = assign("--dataset", "nowhere.csv", "--assignments", "out.xlsx")
    assert run.returncode == 2 and "does not end in .parquet, .csv" in run.stderr


def test_files_of_two_trainings_are_refused_as_the_service_refuses_them(model, tmp_path):
    for name in ("clusters.json", "model.joblib", "transformer.joblib"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    load_assigner(tmp_path / "model.joblib", tmp_path / "transformer.joblib")
    joblib.dump(joblib.load(model / "model.joblib"), tmp_path / "model.joblib", compress=1)
    with pytest.raises(ArtefactError, match="not of the training run"):
        load_assigner(tmp_path / "model.joblib", tmp_path / "transformer.joblib")
    run = assign("--dataset", "nowhere.csv", *paths(tmp_path), "--assignments", tmp_path / "out.csv")
    assert run.returncode == 2 and "not of the training run" in run.stderr and "Traceback" not in run.stderr


def test_a_damaged_table_leaves_the_previous_assignments_as_they_were(model, tmp_path):
    (tmp_path / "bad.csv").write_text("text\n" + "topic1worda\n" * 5_000 + "one, too many\n")
    (tmp_path / "out.csv").write_text("before")
    options = ("--assignments", tmp_path / "out.csv", "--overwrite", "--jobs", "1")
    run = assign("--dataset", tmp_path / "bad.csv", *paths(model), *options)
    assert run.returncode == 2 and "line 5002" in run.stderr and "Traceback" not in run.stderr
    assert {path.name: path.read_text() for path in tmp_path.glob("*out*")} == {"out.csv": "before"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_leaves_the_previous_assignments_as_they_were(tmp_path, monkeypatch):
    batch = Batch(["1"] * 1_000, [""] * 1_000, ["title"] * 1_000, [None] * 1_000)
    numbers, cosines = np.zeros(1_000, np.int32), np.random.default_rng(0).random(1_000)
    for name in ("out.parquet", "out.csv", "out.jsonl.gz"):
        (tmp_path / name).write_text("before")
        with pytest.raises(OSError, match="No space left"), assignment_file(tmp_path / name, Selection()) as write:
            (temporary,) = [path for path in tmp_path.iterdir() if path.name.startswith(f".{name}")]
            with open("/dev/full", "wb") as full:
                os.dup2(full.fileno(), descriptor_of(temporary))
            for _ in range(100):
                write(batch, Assigned(numbers, cosines, numbers, cosines, cosines, *[np.empty((1_000, 0))] * 2), {})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("out.parquet", "out.csv", "out.jsonl.gz"), "before"
    )


def descriptor_of(path) -> int:
    """The descriptor by which this process has a file open."""
    for descriptor in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{descriptor}") and os.path.samefile(f"/proc/self/fd/{descriptor}", path):
            return int(descriptor)
    raise AssertionError(f"{path} is not open")


def begin(*command):
    """A script in a process group of its own, as a terminal starts it."""
    command = [sys.executable, *map(str, command)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(reached, process):
    while not reached():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("phase", "clusters"),
    [
        ("Reading", TOPICS),
        ("Fitting TF-IDF", TOPICS),
        ("Choosing the number of clusters", "2-8"),
        ("Fitting LSA", TOPICS),
        ("Assigning all documents ...", TOPICS),
        ("Creating the report ...", TOPICS),
    ],
)
def test_an_interruption_in_any_phase_leaves_nothing_behind(table, tmp_path, phase, clusters):
    command = [ROOT / "scripts/text_clustering.py", "--dataset", table, "--sample", "500", "--clusters", clusters]
    command += ["--jobs", "2", "--output-dir", tmp_path, "--assignments", tmp_path / "out.csv", "--report"]
    with started(*command) as process:
        wait_until(lambda: phase in process.stderr.readline(), process)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130 and "Interrupted: nothing was written" in errors
    assert "Traceback" not in errors and list(tmp_path.iterdir()) == []


def test_an_interruption_while_the_libraries_load_is_no_traceback(model, table, tmp_path):
    with begin(ROOT / "scripts/text_clustering.py", "--dataset", table, "--output-dir", tmp_path) as process:
        wait_until(lambda: "numpy" in Path(f"/proc/{process.pid}/maps").read_text(), process)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_assigning_is_one_line_and_leaves_nothing_behind(model, table, tmp_path):
    command = [ROOT / "scripts/assign_documents.py", *paths(model), "--jobs", "2", "--dataset", *[table] * 50]
    with started(*command, "--assignments", tmp_path / "out.csv") as process:
        wait_until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()), process)
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130 and errors.endswith("Interrupted: nothing was written\n"), errors
    assert len(errors.splitlines()) == 1 and list(tmp_path.iterdir()) == [], errors


def test_clusters_with_gaps_between_their_numbers_keep_them_in_table_summary_and_report(model, table, tmp_path):
    rows = list(csv.DictReader(table.open(newline="")))
    stay = [row for row in rows if row["label"] in ("topic 0", "topic 3")]
    with (tmp_path / "later.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(stay)
    options = ["--like", model, "--clusters", "2", "--report", "--assignments", tmp_path / "out.jsonl"]
    run = run_training("--dataset", tmp_path / "later.csv", "--sample", "500", "--output-dir", tmp_path, *options)
    assert run.returncode == 0, run.stderr
    before = pyarrow.parquet.read_table(model / "assignments.parquet").to_pylist()
    number_of = {rows[n]["label"]: row["cluster"] for n, row in enumerate(before) if n + 1 not in STRANGERS}
    assigned = list(map(json.loads, (tmp_path / "out.jsonl").open()))
    known = [(row["label"], answer) for row, answer in zip(stay, assigned) if "stranger" not in row["text"]]
    numbers = {number_of["topic 0"], number_of["topic 3"]}
    assert all(
        answer["cluster"] == number_of[label] and {answer["cluster"], answer["runner_up"]} == numbers
        for label, answer in known
    )
    summary = json.loads((tmp_path / "clusters.json").read_text())
    assert {cluster["cluster"]: cluster["size"] for cluster in summary["clusters"]} == Counter(
        number_of[label] for label, _ in known
    )
    report = (tmp_path / "report.html").read_text()
    assert set(re.findall(r'id="cluster-(\d+)"', report)) == {str(number) for number in numbers}
    run = assign("--dataset", tmp_path / "later.csv", *paths(tmp_path), "--assignments", tmp_path / "again.jsonl")
    assert run.returncode == 0 and (tmp_path / "again.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()


def test_statistics_do_not_depend_on_the_batches():
    rng = np.random.default_rng(0)
    documents, terms = 300, 40
    centroids = normalize(rng.normal(size=(5, 8)))
    vectors = normalize(rng.normal(size=(documents, 8)))
    vectors[:10] = 0
    weights = csr_matrix(normalize(rng.random((documents, terms)) * (rng.random((documents, terms)) < 0.2)))
    titles = [f"title {n % 120}" for n in range(documents)]
    labels = [[None, "a", "b", "c"][n] for n in rng.integers(4, size=documents)]

    def statistics_of(size):
        statistics = ClusterStatistics(5, terms)
        for begin in range(0, documents, size):
            part = slice(begin, begin + size)
            assigner = Assigner(LSA, centroids, list(range(5)))
            assigned = assigner.nearest(vectors[part])
            batch = Batch([""] * len(titles[part]), titles[part], titles[part], labels[part])
            statistics.add(batch, assigned, assigner.sum_terms(weights[part], assigned.clusters))
        return statistics

    whole, parts = statistics_of(documents), statistics_of(7)
    for number in range(5):
        assert whole.titles(number) == parts.titles(number) and whole.sizes[number] == parts.sizes[number]
        assert np.allclose(whole.weigh_terms(number), parts.weigh_terms(number), rtol=1e-12)
        assert [e[1:4] for e in whole.borderline[number].best] == [e[1:4] for e in parts.borderline[number].best]
    assert whole.agreement() == parts.agreement() and whole.label_counts() == parts.label_counts()
    assert whole.unknown == parts.unknown == 10 and sum(whole.label_counts().values()) < 290

    nearest = np.linalg.norm(vectors[10:, np.newaxis] - centroids, axis=2)
    members = 10 + np.flatnonzero(nearest.argmin(axis=1) == 0)
    central = members[np.argsort(nearest[members - 10, 0])]
    assert whole.titles(0) == list(dict.fromkeys(titles[n] for n in central))[:5]
    two = np.sort(nearest[members - 10], axis=1)
    borderline = members[np.argsort(two[:, 1] - two[:, 0])]
    assert [e.title for e in whole.borderline[0].best] == list(dict.fromkeys(titles[n] for n in borderline))[:3]


class LSA:  # nothing of it is needed to assign vectors
    analyze = vocabulary = sublinear_tf = projection = idf = None


def test_a_number_that_is_no_cluster_is_no_answer():
    assigner = Assigner(LSA, np.eye(3), [0, 2])
    assigned = assigner.nearest(np.array([[0.1, 0.9, 0.3], [1, 0, 0]]))
    assert assigned.clusters.tolist() == [2, 0] and assigned.runners_up.tolist() == [0, 2]
    alone = Assigner(LSA, np.eye(3), [1]).nearest(np.eye(3))
    assert alone.clusters.tolist() == [1] * 3 and alone.runners_up.tolist() == [NO_CLUSTER] * 3
