"""retrain.py on a real S3 server, the real kubectl and the stub of the cluster, with real trainings.

What Prometheus would answer is given; test_whole_loop.py asks a real one.
"""

import json
import os
import re
import resource
import shutil
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

import deploy_service
import retrain as program
from deployment.deployed_service import keys_in
from prometheus import Prometheus
from retraining import canary as canary_module
from retraining.analysis import Figures
from retraining.canary import Watch
from support.deployment import label, succeeded, traffic, version
from support.retraining import decided, run_retrain, service_options
from support.services import run_training
from support.stores import bucket_in
from support.topics import KEPT, corpus_of

GOOD = Figures(100, 0, 0.02, 0.02, {})
DRIFTED = {"TextsHaveDrifted (3m)": 0.31}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The corpus of today, a model of yesterday's, and what retrain.py makes of both."""
    folder = tmp_path_factory.mktemp("trained")
    before = corpus_of(folder / "before.jsonl", *KEPT)
    today = corpus_of(folder / "today.jsonl", *KEPT, "music", seed=1)
    for name, options in {
        "stable": ("--dataset", before, "--clusters", 3),
        "candidate": ("--dataset", today, "--clusters", 4, "--like", folder / "stable"),
    }.items():
        run = run_training(*options, "--lsa", "20", "--output-dir", folder / name)
        assert run.returncode == 0, run.stderr
    return SimpleNamespace(corpus=today, stable=folder / "stable", candidate=folder / "candidate")


@pytest.fixture
def alerts(monkeypatch):
    """The drift alerts that fire."""
    firing = dict(DRIFTED)
    monkeypatch.setattr(Prometheus, "drift_alerts", lambda *_: firing)
    monkeypatch.setattr(Prometheus, "query", lambda *_: [({}, 1.0)])
    monkeypatch.setattr(canary_module, "fetch_figures", lambda *_: GOOD)
    return firing


@pytest.fixture
def retrain(deployed, cluster, kserve, store, trained, alerts, tmp_path, monkeypatch):
    """Run retrain.py's main in this process on the service that is deployed here: retrain(*options)."""
    keys = {"AWS_ACCESS_KEY_ID": store.keys[0], "AWS_SECRET_ACCESS_KEY": store.keys[1]}
    for name, value in (keys | {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(program, "Watch", lambda duration: Watch(duration, duration / 2))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(*options):
        arguments = service_options(cluster, store, kserve.ingress)
        arguments += ["--dataset", trained.corpus, "--min-new", 20, "--min-documents", 5, "--analyse", "0.1s"]
        return run_retrain(*arguments, *options)

    [run.stable] = deployed(trained.stable)
    return run


@pytest.fixture
def with_candidate(monkeypatch, trained):
    """Replace the training, which takes seconds, by its result."""
    monkeypatch.setattr(program, "train", lambda _, folder, *__: shutil.copytree(trained.candidate, folder))


def decisions(store, cluster) -> list[dict]:
    keys = [key for key in store.list() if key.endswith("/decision.json")]
    return [json.loads(store.s3.get_object(Bucket=store.bucket, Key=key)["Body"].read()) for key in keys]


def test_drift_leads_to_a_promoted_version_with_a_new_number_the_old_ones_and_the_same_settings(
    retrain, deploy, cluster, kserve, store, trained, tmp_path
):
    options = ("--cpu-limit", "2", "--max-replicas", "5", "--image-pull-secret", "registry")
    succeeded(deploy(trained.stable, *options, ingress=kserve.ingress))
    before = cluster.get("inferenceservice", "textclustering")["spec"]["transformer"]

    promoted = re.fullmatch(r"promoted (v\w{12}): 2 of 2 measurements passed", decided(retrain()))[1]
    assert traffic(cluster) == {promoted: 100}
    key = f"{cluster.namespace}/textclustering/{promoted}/transformer/clusters.json"
    summary = json.loads(store.s3.get_object(Bucket=store.bucket, Key=key)["Body"].read())
    assert [cluster["cluster"] for cluster in summary["clusters"]] == [0, 1, 2, 3]
    assert summary["lineage"]["versions"] == [retrain.stable] and list(summary["lineage"]["new"]) == ["3"]

    assert summary["baseline"]["documents"] == 32, "the held-out texts"
    after = cluster.get("inferenceservice", "textclustering")["spec"]["transformer"]
    for name in ("minReplicas", "maxReplicas", "serviceAccountName"):
        assert after[name] == before[name]
    assert after["containers"][0]["resources"] == before["containers"][0]["resources"]

    [kept] = decisions(store, cluster)
    inputs = kept["details"]["inputs"]
    assert inputs["new"] == 160 == inputs["documents"] + inputs["held_out"] and inputs["held_out"] == 32
    assert kept["details"]["gate"]["figures"]["agreement"] == 1
    assert retrain("--history").out.splitlines()[1].split()[2:4] == [promoted, "promoted"]
    assert "but the last decision (promoted" in decided(retrain()), "one retraining a day"
    assert not [name for name in os.listdir(tmp_path) if name.startswith("tmp")], "no temporary files"


def test_without_a_reason_or_a_usable_corpus_nothing_is_deployed_and_the_log_says_why(
    retrain, deploy, cluster, kserve, store, trained, alerts, tmp_path, monkeypatch
):
    repeated, noise = tmp_path / "repeated.jsonl", tmp_path / "noise.jsonl"
    repeated.write_text('{"text": "the same text"}\n' * 10_000)
    noise.write_text("".join(json.dumps({"text": "!? " * number}) + "\n" for number in range(1, 60)))
    assert "is 0.0 days old" in decided(retrain("--when", "30d"))
    assert "but there are 160 different new texts, and --min-new is 161" in decided(retrain("--min-new", 161))
    assert "but there are 1 different new texts" in decided(retrain("--dataset", repeated))
    store.s3.create_bucket(Bucket=f"{store.bucket}-requests")
    nothing = ("--dataset", f"s3://{store.bucket}-requests/", "--s3-endpoint", store.url)
    assert re.search(r"^none: .* fires for .*, but .* has no ", decided(retrain(*nothing)))
    alerts.clear()
    assert decided(retrain()) == f"none: no drift alert fires for {retrain.stable}"
    assert not decisions(store, cluster)
    alerts.update(DRIFTED)
    assert decided(retrain("--dataset", noise)).startswith("failed none-")
    assert "but the last decision (failed" in decided(retrain("--dataset", noise)), "not every quarter of an hour"

    serving = version(succeeded(deploy(trained.candidate, ingress=kserve.ingress)))
    monkeypatch.setattr(program, "train", lambda _, folder, *__: shutil.copytree(trained.stable, folder))
    message = decided(retrain("--cooldown", "0.1s"))
    assert message.startswith("rejected v") and "it keeps 75.0% of the cluster numbers (limit 80.0%)" in message
    assert traffic(cluster) == {serving: 100}
    kept = decisions(store, cluster)[-1]
    assert kept["verdict"] == "rejected" and kept["details"]["gate"]["limits"]["min_kept"] == 0.8


def test_the_standby_makes_way_before_the_canary_comes_which_would_evict_the_run_on_a_full_node(
    retrain, deploy, cluster, kserve, trained, with_candidate, monkeypatch
):
    standby = version(succeeded(deploy(1, ingress=kserve.ingress)))
    succeeded(deploy(trained.stable, ingress=kserve.ingress))
    run, seen = deploy_service.deploy, []

    def watched(options):
        seen.append({label(pod) for pods in kserve.pods.values() for pod in pods if pod.names})
        run(options)

    assert standby in {label(pod) for pods in kserve.pods.values() for pod in pods if pod.names}
    monkeypatch.setattr(deploy_service, "deploy", watched)
    assert decided(retrain()).startswith("promoted v")
    assert seen == [{retrain.stable}]


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(retrain, cluster, store, with_candidate, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        done = retrain()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 1 and "File too large" in done.err.splitlines()[-1]
    assert traffic(cluster) == {retrain.stable: 100} and not decisions(store, cluster)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("tmp")]
    assert not [key for key in cluster.api.objects if key[0] == "leases"]


def test_what_a_person_does_is_respected_and_recorded(
    retrain, deploy, cluster, kserve, store, trained, with_candidate, monkeypatch
):
    canary = version(succeeded(deploy(trained.candidate, "--canary", "30", ingress=kserve.ingress)))
    assert decided(retrain()) == "none: a canary that somebody has deployed is in progress"
    assert traffic(cluster) == {retrain.stable: 70, canary: 30}
    succeeded(deploy(trained.candidate, "--rollback", ingress=kserve.ingress))

    monkeypatch.setattr(canary_module, "fetch_figures", lambda *_: GOOD._replace(requests=3))
    message = decided(retrain())
    assert message.startswith("inconclusive") and "3 requests of the canary" in message
    assert "waits for a person" in decided(retrain())
    succeeded(deploy(trained.candidate, "--promote", ingress=kserve.ingress))
    assert "but the last decision (promoted" in decided(retrain())
    [kept] = decisions(store, cluster)
    assert kept["verdict"] == "promoted" and "a person" in kept["reason"]


def test_on_minio_a_scheduled_run_has_a_user_that_writes_the_versions_of_its_service_only(
    deploy, cluster, kserve, minio_store, trained, alerts, with_candidate, tmp_path, monkeypatch
):
    place = bucket_in(minio_store)
    succeeded(deploy(trained.stable, "--record-requests", store=place, share=False, ingress=kserve.ingress))
    corpus = bucket_in(minio_store)
    corpus.s3.create_bucket(Bucket=corpus.bucket)
    corpus.s3.upload_file(str(trained.corpus), corpus.bucket, "today.jsonl")
    place.s3.put_object(Bucket=place.bucket, Key="elsewhere/textclustering/v1/version.json", Body=b"{}")

    monkeypatch.setattr(program, "Watch", lambda duration: Watch(duration, duration / 2))
    for name, value in {"KUBECONFIG": cluster.kubeconfig, "HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    options = [word for word in service_options(cluster, place, kserve.ingress) if word != "--share-keys"]
    options += ["--dataset", f"s3://{corpus.bucket}/", "--s3-endpoint", place.url]
    keys = place.keys
    for scheduled in (("--schedule", "@daily", "--image", "retraining:test"), ()):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
        done = run_retrain(*options, "--min-new", 20, "--min-documents", 5, "--analyse", "0.1s", *scheduled)
        keys = keys_in(cluster.get("secret", "textclustering-retraining"))
    assert decided(done).startswith("promoted"), done.err

    user = bucket_in(SimpleNamespace(url=place.url, keys=keys)).s3
    for refused in (
        lambda: user.put_object(Bucket=place.bucket, Key="elsewhere/textclustering/v1/version.json", Body=b""),
        lambda: user.get_object(Bucket=place.bucket, Key="elsewhere/textclustering/v1/version.json"),
        lambda: user.list_objects_v2(Bucket=place.bucket, Prefix="elsewhere/"),
        lambda: user.list_objects_v2(Bucket=place.bucket),
        lambda: user.put_object(Bucket=corpus.bucket, Key="today.jsonl", Body=b""),
        lambda: user.get_object(Bucket="textclustering-requests", Key=f"{cluster.namespace}/textclustering/a.json"),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
    succeeded(deploy(0, "--delete", "--delete-requests", store=place))
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        user.list_objects_v2(Bucket=place.bucket, Prefix=f"{cluster.namespace}/textclustering/")
