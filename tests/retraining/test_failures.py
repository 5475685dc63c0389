"""Failures of what a retraining or an analysis needs: the stable version keeps serving, a decision says why, nothing is left.

Real S3 server, kubectl and, where one is named, Prometheus; in the first test also real transformers. test_canary.py and
test_gate.py have failures that show in figures only, test_retrain.py those of the corpus and of the disk.
"""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, datetime, timedelta

import botocore.auth
import pytest

import deploy_service
import retrain as program
from deployment import manifests
from deployment.gateway import Gateway
from retraining import analysis, gate, lock
from retraining import canary as canary_module
from retraining.analysis import Figures, Limits
from retraining.canary import Watch
from store.model_store import ModelStore
from support.deployment import IMAGE, TOPICS, stub_kserve, succeeded, traffic, version
from support.free_port import free_port
from support.outage import Outage
from support.programs import ROOT
from support.prometheus import configure, discovery, run_prometheus, wait_for
from support.retraining import decided, run_retrain, service_options

GOOD = Figures(100, 0, 0.02, 0.02, {})
FAULTY = ROOT / "tests/doubles/faulty_transformer.py"


def decisions(store, cluster) -> list[dict]:
    keys = [key for key in store.list() if key.endswith("/decision.json")]
    found = [json.loads(store.s3.get_object(Bucket=store.bucket, Key=key)["Body"].read()) for key in keys]
    return sorted(found, key=lambda each: each["time"])


def leases(cluster) -> list:
    return [key for key in cluster.api.objects if key[0] == "leases"]


# --- A canary that fails or is slow: real transformers and a real Prometheus ---------------------------------------


def ask(port) -> int:
    body = json.dumps({"instances": TOPICS}).encode()
    address = f"http://127.0.0.1:{port}/v1/models/textclustering:predict"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def load(stub, threads=8):
    """Requests to the pods of all versions that have some, until the end of the block. Gives the statuses by version."""
    statuses, stopped = Counter(), threading.Event()

    def send(pod):
        name = pod.template["labels"]["app.kubernetes.io/version"]
        while not stopped.wait(0.1):
            statuses[name, ask(pod.port)] += 1

    running = [
        threading.Thread(target=send, args=(pod,), daemon=True)
        for pod in stub.all_pods()
        for _ in range(threads)
        if pod.port
    ]
    for thread in running:
        thread.start()
    try:
        yield statuses
    finally:
        stopped.set()
        for thread in running:
            thread.join()


@pytest.mark.system("prometheus")
def test_a_canary_that_fails_one_request_in_ten_or_is_slow_is_rolled_back_and_no_other_request_fails(
    deploy, cluster, store, tmp_path, monkeypatch
):
    folder = tmp_path / "prometheus"
    folder.mkdir()
    config = configure(folder, [], ("services",), "1s")
    monkeypatch.setattr(deploy_service, "Watch", lambda duration: Watch(duration, 3, Limits(requests=10)))
    reasons = {
        "fails": r"\d+\.\d% of its requests fail, and 0\.\d% of those of the stable version",
        "slow": r"its p99 is (0\.[7-9]|[1-9])\S* s, and that of the stable version 0\.",
    }
    images = {f"{IMAGE}-{fault}": [FAULTY, fault] for fault in reasons}
    with (
        stub_kserve(cluster, tmp_path, serve=True, images=[IMAGE, *images]) as stub,
        run_prometheus(config, free_port()) as url,
        discovery(folder, stub),
    ):
        stub.programs = images
        stable = version(succeeded(deploy(0, "--collocate", ingress=stub.ingress, timeout=240)))
        observe = canary_module.observe
        seen = Counter()

        def observe_under_load(*arguments):
            with load(stub) as statuses:
                result = observe(*arguments)
            seen.update(statuses)
            return result

        monkeypatch.setattr(canary_module, "observe", observe_under_load)
        for run, (image, reason) in enumerate(zip(images, reasons.values()), start=1):
            options = (
                "--collocate",
                "--canary",
                "50",
                "--analyse",
                "9s",
                "--prometheus",
                url,
                "--transformer-image",
                image,
            )
            done = deploy(run, *options, ingress=stub.ingress, timeout=240, here=True)
            assert done.code == 1 and re.search(reason, done.err.splitlines()[-1]), done.err
            assert traffic(cluster, "predictor") == {stable: 100}
            kept = decisions(store, cluster)[-1]
            assert (kept["verdict"], kept["version"], kept["stable"]) == ("rolled back", version(done), stable)
            figures = kept["details"]["analysis"]["measurements"][-1]
            assert figures["stable"]["failed"] < 0.01 * figures["stable"]["requests"]
            newest = cluster.get("revision", stub.pods[cluster.namespace, "textclustering", "predictor"][-1].name)
            assert manifests.annotation(newest, manifests.MIN_SCALE_ANNOTATION) == "0"
        assert {status for name, status in seen if name == stable} == {200}
        assert not leases(cluster)


# --- Runs of retrain.py -------------------------------------------------------------------------------------------


@pytest.fixture
def retrain(deployed, cluster, kserve, store, training_runs, tmp_path, monkeypatch):
    """Run retrain.py in this process on training run 0, which is deployed, with training run 1 as the candidate."""
    keys = {"AWS_ACCESS_KEY_ID": store.keys[0], "AWS_SECRET_ACCESS_KEY": store.keys[1]}
    for name, value in (keys | {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(program, "Watch", lambda duration: Watch(duration, duration / 5))
    monkeypatch.setattr(program, "train", lambda _, folder, *__: shutil.copytree(training_runs[1], folder))
    monkeypatch.setattr(canary_module, "fetch_figures", lambda *_: GOOD)
    texts = [f"{topic} {number}" for topic in TOPICS for number in range(20)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    [stable] = deployed(0)

    def run(*options):
        arguments = [*service_options(cluster, store, kserve.ingress), "--dataset", corpus, "--when", "now"]
        arguments += ["--min-new", 20, "--min-documents", 1, "--min-agreement", 0, "--analyse", "0.1s"]
        return run_retrain(*arguments, *options)

    run.stable, run.temporary, run.corpus = stable, temporary, corpus
    return run


def process_of(run, place, name, act):
    """The run in a process of its own, which calls act() in place of a function."""

    def target():
        setattr(place, name, act)
        run()

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def test_a_run_that_is_killed_or_loses_the_store_in_any_step_is_continued_or_cleaned_up_by_the_next(
    retrain, cluster, store, monkeypatch
):
    monkeypatch.setattr(lock, "RENEW_INTERVAL", 0.3)
    dataset = f"{store.bucket}-corpus"
    store.s3.create_bucket(Bucket=dataset)
    store.s3.upload_file(str(retrain.corpus), dataset, "corpus.jsonl")

    with Outage(store.url) as outage:

        def run():
            return retrain("--minio-endpoint", outage.url, "--s3-endpoint", outage.url, "--dataset", f"s3://{dataset}/")

        def without_store(method, name, content=b""):
            """A run that loses the store at a request."""
            outage.begin, files = (method, name, content), os.listdir(retrain.temporary)
            done = run()
            assert outage.down and done.code == 1 and outage.url in done.err.splitlines()[-1], done.err
            outage.end()
            assert not leases(cluster) and os.listdir(retrain.temporary) == files

        def killed(place, name):
            """A run that is killed when it begins a step."""
            process = process_of(run, place, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
            assert leases(cluster), "it has released nothing"

        def state():
            return [each["verdict"] for each in decisions(store, cluster)], traffic(cluster).get(retrain.stable)

        with monkeypatch.context() as patch:
            patch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.now(UTC) + timedelta(hours=1))
            done = run()
        assert done.code == 1 and "because the clocks differ" in done.err.splitlines()[-1]

        without_store("GET", "corpus.jsonl")
        without_store("PUT", "/decision.json")
        assert state() == ([], 100)

        training = process_of(run, program, "train", lambda *_: time.sleep(60))
        wait_for(lambda: leases(cluster), 60)
        second = run()
        assert second.code == 1 and "is deciding about textclustering" in second.err.splitlines()[-1]
        training.kill()
        training.join()
        assert state() == ([], 100)

        monkeypatch.setattr(lock, "poll", lambda _: [0.0])  # not a minute, to see whether the killed run is alive
        killed(gate, "measure")
        killed(ModelStore, "upload")
        assert state() == (["in progress"], 100)
        without_store("PUT", "/transformer.joblib")
        killed(Gateway, "smoke_test")
        assert state() == (["in progress"], 100)
        killed(canary_module, "fetch_figures")
        assert state() == (["in progress"], 80)
        without_store("PUT", "/decision.json", b"promoted")
        assert state() == (["in progress"], None)
        assert "but the last decision (promoted" in decided(run())

    [kept] = decisions(store, cluster)
    assert kept["verdict"] == "promoted" and traffic(cluster) == {kept["version"]: 100}
    assert len([key for key in store.list() if key.endswith("/model.joblib")]) == 2
    assert not leases(cluster)


@pytest.mark.system("prometheus")
def test_without_metrics_nothing_is_trained_and_without_prometheus_a_canary_is_left_to_a_person(
    retrain, cluster, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(canary_module, "fetch_figures", analysis.fetch_figures)
    port = free_port()
    address = ("--prometheus", f"http://127.0.0.1:{port}")
    with run_prometheus(configure(tmp_path, [], ("services",)), port) as url:
        assert decided(retrain(*address, "--when", "drifted")) == (
            f"none: Prometheus at {url} has no metrics of {retrain.stable}"
        )
    done = retrain(*address, "--when", "drifted")
    assert done.code == 1 and "Prometheus does not respond" in done.err.splitlines()[-1]
    assert traffic(cluster) == {retrain.stable: 100} and not decisions(store, cluster)
    message = decided(retrain(*address))
    assert message.startswith("inconclusive v") and "5 measurements in a row had errors" in message
    assert "Prometheus does not respond" in message and traffic(cluster)[retrain.stable] == 80
    assert [each["verdict"] for each in decisions(store, cluster)] == ["inconclusive"] and not leases(cluster)


@pytest.mark.parametrize(
    ("step", "action", "reason"),
    [
        ((program, "train"), "--delete", "the service is gone"),
        ((program, "train"), "--rollback", "somebody else changed the traffic meanwhile: v"),
        ((canary_module, "scale_to_zero"), "--rollback", "somebody else changed the traffic meanwhile: v"),
    ],
)
def test_what_a_person_does_during_the_training_or_while_the_standby_ends_is_respected(
    retrain, deploy, deployed, cluster, kserve, store, training_runs, monkeypatch, step, action, reason
):
    deployed(0, 1)
    monkeypatch.setattr(program, "train", lambda _, folder, *__: shutil.copytree(training_runs[2], folder))
    taken = getattr(*step)

    def interrupted(*arguments):
        taken(*arguments)
        monkeypatch.setattr(*step, taken)
        succeeded(deploy(1, action, ingress=kserve.ingress))

    monkeypatch.setattr(*step, interrupted)
    message = decided(retrain())
    assert message.startswith("superseded v") and reason in message
    assert [each["verdict"] for each in decisions(store, cluster)] == ["superseded"]
    assert not leases(cluster) and not os.listdir(retrain.temporary)
    services = [key for key in cluster.api.objects if key[0] == "inferenceservices"]
    assert not services if action == "--delete" else traffic(cluster) == {retrain.stable: 100}
