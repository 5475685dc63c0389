"""deploy_service.py refuses what can't work, in one clear line, before it touches anything."""

import json
import os
import shutil
import signal
from http.server import SimpleHTTPRequestHandler

import minio
import pytest
from minio.credentials import StaticProvider

from deployment.gateway import sample_texts
from doubles.stub_kubernetes import StubKubernetes
from support.deployment import (
    IMAGE,
    ArtefactError,
    BadInput,
    bucket_in,
    check_names,
    deploy_process,
    deploy_service,
    read_version,
    train,
)
from support.server_thread import ServerThread


def options(**flags):
    words = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
    return deploy_service.parse_arguments(["--transformer-image", IMAGE, *words])


def test_the_seed_command_line_and_its_defaults_still_stand():
    parsed = deploy_service.parse_arguments(
        [
            "--log-level",
            "INFO",
            "--model-path",
            "/vagrant/model.joblib",
            "--model-name",
            "textclustering",
            "--namespace",
            "kserve-textclustering",
            "--transformer-path",
            "/vagrant/transformer.joblib",
            "--transformer-image",
            "agmangas/sklearn-transformer:latest",
        ]
    )
    check_names(vars(parsed))
    assert parsed.minio_endpoint == "http://localhost:30100"
    assert parsed.minio_endpoint_cluster == "minio-service.tenant-tiny:9000"
    assert parsed.bucket == "textclustering" and parsed.wait and not parsed.dry_run


@pytest.mark.parametrize("name", ["a", "text-clustering", "x" * 46, "a1"])
def test_a_model_name_that_kserve_takes_is_taken(name):
    check_names(vars(options(model_name=name, bucket="a-bucket")))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *[
            ("model_name", name)
            for name in ("Text", "1text", "text-", "text_clustering", "a.b", "x" * 47, "my-default", "the-requests")
        ],
        *[("namespace", name) for name in ("Space", "-a", "a-", "a.b", "x" * 64, "kube-system", "the-default-one")],
        *[
            ("bucket", name)
            for name in (
                "ab",
                "x" * 64,
                "Bucket",
                "a..b",
                "-ab",
                "ab-",
                "a_b",
                "10.0.0.1",
                "xn--bucket",
                "bucket-s3alias",
            )
        ],
        ("minio_endpoint", "localhost:30100"),
        ("minio_endpoint", "http://host/path"),
        ("ingress", "ftp://host"),
        ("minio_endpoint_cluster", "minio service"),
        ("cpu_request", "much"),
        ("memory_limit", "1 GB"),
        ("transformer_image", "UPPER/case image"),
    ],
)
def test_a_wrong_name_is_refused_and_named(flag, value):
    with pytest.raises(BadInput) as refused:
        check_names(vars(options(**{flag: value})))
    assert f"--{flag.replace('_', '-')}" in str(refused.value) and value in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--transformer-image", IMAGE, "--access-key", "a"],
        ["--transformer-image", IMAGE, "--canary", "0"],
        ["--transformer-image", IMAGE, "--canary", "100"],
        ["--transformer-image", IMAGE, "--timeout", "0"],
        ["--transformer-image", IMAGE, "--canary", "10", "--no-wait"],
        ["--promote", "--rollback"],
        ["--delete-artefacts", "--transformer-image", IMAGE],
    ],
)
def test_wrong_usage_ends_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        deploy_service.parse_arguments(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def change(directory, **changes):
    about = json.loads((directory / "clusters.json").read_text())
    (directory / "clusters.json").write_text(json.dumps({**about, **changes}))


def swap(directory):
    (directory / "model.joblib").rename(directory / "x")
    (directory / "transformer.joblib").rename(directory / "model.joblib")
    (directory / "x").rename(directory / "transformer.joblib")


BAD_ARTEFACTS = {
    "model missing": (lambda d: (d / "model.joblib").unlink(), "model.joblib is not there"),
    "transformer missing": (lambda d: (d / "transformer.joblib").unlink(), "transformer.joblib is not there"),
    "not a joblib": (lambda d: (d / "model.joblib").write_text("<html>"), "is not a joblib file"),
    "empty": (lambda d: (d / "transformer.joblib").write_bytes(b""), "is not a joblib file"),
    "no clusters.json": (lambda d: (d / "clusters.json").unlink(), "clusters.json is not there"),
    "clusters.json damaged": (lambda d: (d / "clusters.json").write_text('{"sha'), "damaged"),
    "clusters.json of another program": (lambda d: (d / "clusters.json").write_text("[]"), "damaged"),
    "clusters.json of a later format": (lambda d: change(d, format=4), "has format 4, and 2 or 3 is read here"),
    "transformer of another run": (
        lambda d: (d / "transformer.joblib").write_bytes((d / "transformer.joblib").read_bytes() + b"x"),
        "transformer.joblib is not of the training run",
    ),
    "swapped": (swap, "swap --model-path and --transformer-path"),
    "another scikit-learn": (lambda d: change(d, versions={"scikit-learn": "0.24.2"}), "made with scikit-learn 0.24.2"),
}


@pytest.mark.parametrize("case", BAD_ARTEFACTS)
def test_bad_artefacts_are_refused(case, tmp_path):
    spoil, expected = BAD_ARTEFACTS[case]
    directory = train(tmp_path / "artefacts")
    spoil(directory)
    with pytest.raises(ArtefactError, match=expected) as refused:
        read_version(directory / "model.joblib", directory / "transformer.joblib")
    assert "\n" not in str(refused.value)


def test_a_model_of_the_format_without_vocabulary_terms_is_tested_with_its_top_terms(tmp_path):
    directory = train(tmp_path / "artefacts")
    clusters = json.loads((directory / "clusters.json").read_text())["clusters"]
    expected = {cluster["cluster"]: ", ".join(cluster.pop("vocabulary_terms")) for cluster in clusters}
    change(directory, format=2, clusters=clusters)
    version = read_version(directory / "model.joblib", directory / "transformer.joblib")
    assert sample_texts(version.summary["clusters"]) == expected


def test_bad_artefacts_touch_neither_store_nor_cluster(deploy, cluster, store, tmp_path):
    directory = train(tmp_path / "artefacts")
    swap(directory)
    done = deploy(directory)
    assert done.code == 2 and done.err.count("\n") == 1
    assert store.bucket not in [item["Name"] for item in store.s3.list_buckets()["Buckets"]]
    assert cluster.namespace not in cluster.kubectl("get", "namespaces")


def test_the_version_is_that_of_the_content_of_the_three_files(tmp_path, training_runs):
    def version(directory):
        return read_version(directory / "model.joblib", directory / "transformer.joblib").name

    shutil.copytree(training_runs[0], tmp_path / "copy")
    assert version(tmp_path / "copy") == version(training_runs[0]) != version(training_runs[1])
    change(tmp_path / "copy", created="2030-01-01T00:00:00+00:00")
    assert version(tmp_path / "copy") != version(training_runs[0])


# --- What is wrong outside ---------------------------------------------------------------------


def one_line(done, status, *words):
    """The run ended with this status and its last line says it all."""
    assert done.code == status, done.err
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert " ERROR " in last
    for word in words:
        assert word in last
    assert done.err.count(" ERROR ") == 1


def test_wrong_keys(deploy, kserve):
    one_line(deploy(AWS_ACCESS_KEY_ID="nobody"), 1, "refuses the keys", "AWS_ACCESS_KEY_ID", "nobody")
    one_line(deploy(AWS_SECRET_ACCESS_KEY="not-the-secret"), 1, "refuses the keys", "SignatureDoesNotMatch")


def test_keys_come_from_the_flags_then_the_environment_then_the_profile(deploy, kserve, store, tmp_path):
    one_line(deploy(0, "--access-key", "flag", "--secret-key", "flagsecret"), 1, "--access-key", "flag")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = profilekey\naws_secret_access_key = profilesecret\n"
    )
    one_line(deploy(AWS_ACCESS_KEY_ID="environ"), 1, "AWS_ACCESS_KEY_ID", "environ")
    one_line(deploy(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None), 1, "AWS profile", "profilekey")
    (tmp_path / ".aws/credentials").unlink()
    one_line(deploy(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None), 1, "development machine", "minio")


def test_store_that_is_not_there(deploy, kserve):
    one_line(deploy(0, "--minio-endpoint", "http://127.0.0.1:9"), 1, "http://127.0.0.1:9", "cannot be reached")


def test_bucket_of_someone_else(deploy, kserve, store):
    store.s3.create_bucket(Bucket=store.bucket)
    done = deploy(AWS_ACCESS_KEY_ID="guestkey", AWS_SECRET_ACCESS_KEY="guestsecret")
    one_line(done, 1, store.bucket, "owned by someone else", "--bucket")


def test_kubectl_missing(deploy, cluster, tmp_path):
    one_line(deploy(PATH=str(tmp_path)), 2, "kubectl is not installed")


def changed_kubeconfig(cluster, path, part, **settings):
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config[f"{part}s"][0][part] = {**(config[f"{part}s"][0][part] or {}), **settings}
    path.write_text(json.dumps(config))
    return str(path)


def test_cluster_that_is_not_there(deploy, cluster, tmp_path):
    nowhere = changed_kubeconfig(cluster, tmp_path / "nowhere", "cluster", server="http://127.0.0.1:9")
    one_line(deploy(KUBECONFIG=nowhere), 1, "the cluster cannot be reached", "KUBECONFIG")


def test_server_that_is_no_cluster(deploy, cluster, tmp_path):
    with ServerThread(SimpleHTTPRequestHandler) as server:
        other = changed_kubeconfig(cluster, tmp_path / "other", "cluster", server=server.url)
        one_line(deploy(KUBECONFIG=other), 2, "what answers is none", "choose a context")


def test_context_that_is_not_there(deploy, cluster):
    one_line(deploy(0, "--context", "elsewhere"), 2, "elsewhere", "does not exist")


def test_cluster_without_kserve(deploy, tmp_path):
    with StubKubernetes(kserve=False) as api:
        done = deploy(KUBECONFIG=str(api.kubeconfig(tmp_path / "bare")))
    one_line(done, 1, "KServe is not installed")


def test_no_permission(deploy, cluster, store, tmp_path):
    cluster.kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}}),
    )
    restricted = changed_kubeconfig(cluster, tmp_path / "restricted", "user", **{"as": "nobody"})
    one_line(deploy(KUBECONFIG=restricted), 1, "does not permit it", "nobody")
    assert store.bucket not in [item["Name"] for item in store.s3.list_buckets()["Buckets"]]


def test_namespace_that_is_being_deleted(deploy, cluster, kserve):
    cluster.kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}}),
    )
    keep = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "keep", "namespace": cluster.namespace, "finalizers": ["mlops-poc/keep"]},
    }
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(keep))
    cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false")
    try:
        one_line(deploy(), 1, cluster.namespace, "is being deleted")
    finally:
        cluster.kubectl(
            "patch",
            "configmap",
            "keep",
            "-n",
            cluster.namespace,
            "--type=merge",
            '--patch={"metadata":{"finalizers":null}}',
        )


def test_canary_promote_and_rollback_need_a_service(deploy, cluster, kserve):
    one_line(deploy(0, "--canary", "10"), 2, "no textclustering", "without --canary")
    one_line(deploy(0, "--promote"), 2, "no InferenceService textclustering")
    one_line(deploy(0, "--rollback"), 2, "no InferenceService textclustering")


def test_interrupt_ends_with_130_and_no_traceback(cluster, store, training_runs):
    with deploy_process(training_runs[0], cluster, store) as run:
        lines = read_until(run, "inferenceservice")
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: kubectl gets it as well
        lines += run.stderr.readlines()
        assert run.wait(30) == 130
    assert "Traceback" not in "".join(lines) and "Interrupted" in lines[-1]


def read_until(process, text):
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], f"ended before {text!r}: {lines}"
    return lines


def test_bucket_of_another_user_of_minio(deploy, kserve, minio_store):
    """MinIO has owners only by policy: a user who may do nothing sees nobody's buckets."""
    place = bucket_in(minio_store)
    admin = minio.MinioAdmin(
        endpoint=minio_store.url.split("//")[1],
        secure=False,
        credentials=StaticProvider(*minio_store.keys),
    )
    admin.user_add("outsider", "outsidersecret")
    done = deploy(store=place, AWS_ACCESS_KEY_ID="outsider", AWS_SECRET_ACCESS_KEY="outsidersecret")
    one_line(done, 1, "owned by someone else", "outsider")
