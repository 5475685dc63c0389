"""--dask on a real scheduler and real workers: the same rows as on this machine, whatever dies."""

import contextlib
import csv
import os
import re
import signal

import numpy as np
import pytest

from support.free_port import free_port
from support.programs import started
from support.services import run_training

DOCUMENTS = 40_000  # ten batches


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A small table to train on, and a large one to assign."""
    rng = np.random.default_rng(0)
    words = [[f"topic{topic}word{chr(97 + n)}" for n in range(20)] for topic in range(4)]
    paths = []
    for name, documents in (("small.csv", 400), ("large.csv", DOCUMENTS)):
        paths.append(tmp_path_factory.mktemp("tables") / name)
        with paths[-1].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text"])
            chosen = rng.integers(20, size=(documents, 8))
            writer.writerows(
                [" ".join(words[number % 4][n] for n in row)] for number, row in enumerate(chosen.tolist())
            )
    return paths


@pytest.fixture(scope="module")
def model(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    run = run_training("--dataset", tables[0], "--clusters", "4", "--lsa", "10", "--output-dir", folder)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def expected(model, tables, tmp_path_factory):
    """The assignments that are made without a cluster."""
    path = tmp_path_factory.mktemp("expected") / "rows.csv"
    with assigning(model, tables[1], path, "--jobs", "1") as process:
        assert process.wait() == 0, process.stderr.read()
    return path.read_bytes()


@contextlib.contextmanager
def assigning(model, table, path, *options):
    arguments = ["--dataset", table, "--assignments", path, *options]
    arguments += ["--model-path", model / "model.joblib", "--transformer-path", model / "transformer.joblib"]
    with started("scripts/assign_documents.py", *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def dask_cluster():
    from assignment import dask_cluster  # here, because the other test processes need not load Dask

    return dask_cluster


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory):
    from support.dask_processes import Cluster

    with Cluster(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster):
    """A scheduler and two workers, without what an earlier test has ended or added."""
    shared_cluster.restore()
    return shared_cluster


def wait_for(process, words: str):
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended without the words {words}")


def test_a_cluster_answers_what_this_machine_answers_also_when_a_worker_dies(
    cluster, model, tables, expected, tmp_path
):
    with assigning(model, tables[1], tmp_path / "rows.csv", "--dask", cluster.address) as process:
        wait_for(process, "Dask: 2 workers")
        cluster.workers[0].send_signal(signal.SIGKILL)
        assert process.wait() == 0, process.stderr.read()
    assert (tmp_path / "rows.csv").read_bytes() == expected


def test_a_scheduler_that_is_not_there_is_one_line(model, tables, tmp_path):
    address = f"tcp://127.0.0.1:{free_port()}"
    with assigning(model, tables[1], tmp_path / "rows.csv", "--dask", address) as process:
        errors = process.stderr.read()
        assert process.wait() == 1
    assert f"The Dask cluster {address} cannot be reached" in errors and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_dask_gives_up_is_one_line(dask_cluster, cluster):
    class Killer:
        def assign(self, documents):
            os._exit(1)

    with dask_cluster.Client(cluster.address, set_as_default=False) as client:
        allowed = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures)

        def allow(failures):
            client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", failures))

        allow(0)
        with pytest.raises(dask_cluster.ClusterError, match="was lost: Attempted to run task"):
            list(dask_cluster.run_on_dask(cluster.address, Killer(), "assign", lambda task: iter([task(["a"])])))
        allow(allowed)


def test_an_interruption_leaves_nothing_behind_and_the_workers_at_work(dask_cluster, cluster, model, tables, tmp_path):
    with assigning(model, tables[1], tmp_path / "rows.csv", "--dask", cluster.address) as process:
        wait_for(process, "Dask: 2 workers")
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait() == 130
    assert "Interrupted: nothing was written" in errors and len(errors.splitlines()) == 1, errors
    assert not [path for path in tmp_path.iterdir() if "rows" in path.name]
    with dask_cluster.Client(cluster.address, set_as_default=False) as client:
        assert sorted(client.run(os.getpid).values()) == sorted(worker.pid for worker in cluster.workers)


def test_a_worker_with_other_versions_is_refused_by_its_name_also_when_it_joins_late(cluster, model, tables, tmp_path):
    other = tmp_path / "scikit_learn-0.9.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 0.9.1\n")
    with assigning(model, tables[1], tmp_path / "rows.csv", "--dask", cluster.address) as process:
        wait_for(process, "Dask: 2 workers")
        process.send_signal(signal.SIGSTOP)
        cluster.add_worker(PYTHONPATH=tmp_path)
        cluster.wait_for_workers()
        process.send_signal(signal.SIGCONT)
        errors = process.stderr.read()
        assert process.wait() == 1
    refused = (
        r"Dask worker tcp://\S+ has scikit-learn 0.9.1, this process \S+: install scripts/requirements.txt there.$"
    )
    assert re.search(refused, errors) and len(errors.splitlines()) == 1, errors
    assert not [path for path in tmp_path.iterdir() if "rows" in path.name]


def test_a_worker_with_another_python_is_refused_by_its_name(dask_cluster, cluster, monkeypatch):
    with dask_cluster.Client(cluster.address, set_as_default=False) as client:
        assert len(dask_cluster.check_versions(client, set())) == 2
        versions = dask_cluster.versions_here()
        monkeypatch.setattr(dask_cluster, "versions_here", lambda: versions | {"python": "3.9.1"})
        with pytest.raises(
            dask_cluster.ClusterError, match=r"Dask worker tcp://\S+ has python \S+, this process 3.9.1"
        ):
            dask_cluster.check_versions(client, set())


def test_a_scheduler_that_goes_away_is_one_line_and_leaves_nothing(cluster, model, tables, tmp_path):
    with assigning(model, tables[1], tmp_path / "rows.csv", "--dask", cluster.address) as process:
        wait_for(process, "Dask: 2 workers")
        cluster.scheduler.send_signal(signal.SIGKILL)
        errors = process.stderr.read()
        assert process.wait() == 1
    assert "was lost" in errors and "Traceback" not in errors and len(errors.splitlines()) == 1, errors
    assert not [path for path in tmp_path.iterdir() if "rows" in path.name]
