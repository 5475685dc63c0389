"""deploy_service.py --record-requests: what a service records, and who may read it.

Real S3 server, real kubectl, an API server, and a stub of KServe and Knative.
"""

import base64
import contextlib
import json
import subprocess

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError

from deployment.manifests import READER_KEYS, RECORDER_KEYS
from support.deployment import bucket_in, secret, succeeded, version

BUCKET = "textclustering-requests"


@pytest.fixture
def requests_bucket(store):
    """Removes what the tests leave in the bucket that all services of this name share."""
    yield
    empty(store)


def empty(store):
    with contextlib.suppress(store.s3.exceptions.NoSuchBucket):
        for item in store.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            store.s3.delete_object(Bucket=BUCKET, Key=item["Key"])
        store.s3.delete_bucket(Bucket=BUCKET)


SERVICE = "serving.kserve.io/inferenceservice=textclustering"


@pytest.mark.parametrize(
    ("flags", "component", "server"),
    [((), "transformer", "kserve-container"), (("--collocate",), "predictor", "transformer-container")],
)
def test_the_component_that_clients_call_has_a_logger_and_a_recorder(deploy, cluster, flags, component, server):
    printed = yaml.safe_load_all(succeeded(deploy(0, "--dry-run", "--record-requests", *flags)).out)
    spec = next(item for item in printed if item["kind"] == "InferenceService")["spec"]
    assert [name for name in spec if "logger" in spec[name]] == [component]
    assert spec[component]["logger"]["mode"] == "request"
    assert spec[component]["logger"]["url"] == "http://127.0.0.1:9085", "in the pod: a store in trouble stops nobody"
    found = {container["name"]: container for container in spec[component]["containers"]}
    args = found["recorder"]["args"]
    assert args[args.index("--bucket") + 1] == BUCKET
    assert args[args.index("--prefix") + 1] == f"{cluster.namespace}/textclustering/"
    used = {item["valueFrom"]["secretKeyRef"]["name"] for item in found["recorder"]["env"]}
    assert used == {spec[component]["serviceAccountName"]}
    # What Knative's webhook requires of several containers, and refuses of those without a port.
    assert found[server]["ports"] and not found["recorder"].keys() & {"ports", "readinessProbe"}


def test_each_version_has_credentials_of_its_own_and_the_requests_outlive_the_service_unless_told_otherwise(
    deploy, cluster, kserve, store, requests_bucket
):
    succeeded(deploy(0, ingress=kserve.ingress))
    [plain] = cluster.list("secrets", SERVICE)
    assert set(plain["data"]) == set(READER_KEYS)
    done = succeeded(deploy(1, "--record-requests", ingress=kserve.ingress))
    assert "WARNING Requests are recorded with your own keys" in done.err
    after = cluster.list("secrets", SERVICE)
    assert {frozenset(item["data"]) for item in after} == {
        frozenset(READER_KEYS),
        frozenset((*READER_KEYS, *RECORDER_KEYS)),
    }
    assert plain["data"] in [item["data"] for item in after], "those of the earlier version are not changed"

    own, others = f"{cluster.namespace}/textclustering/2026-11-29/a.json", "elsewhere/textclustering/b.json"
    for key in (own, others):
        store.s3.put_object(Bucket=BUCKET, Key=key, Body=b"[]")

    def kept():
        return {item["Key"] for item in store.s3.list_objects_v2(Bucket=BUCKET)["Contents"]}

    succeeded(deploy(0, "--delete", "--delete-artefacts"))
    assert kept() == {own, others}
    succeeded(deploy(0, "--delete", "--delete-requests"))
    assert kept() == {others}


def test_options_that_would_expose_or_lose_recorded_requests_are_refused(deploy, cluster):
    for flags, reason in [
        (("--record-requests", "--bucket", BUCKET), "the service can read its bucket"),
        (("--delete-requests",), "--delete-requests requires --delete"),
    ]:
        done = deploy(0, *flags)
        assert done.code == 2 and reason in done.err


def test_kserve_refuses_a_logger_that_it_could_not_run(cluster):
    """The stub's admission, which all deployments of the tests pass; checked against KServe's webhook on a cluster."""
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "x", "namespace": "default"},
    }
    cluster.kubectl("create", "namespace", "default", fails=True)
    for logger, reason in [
        ({}, "invalid logger type"),
        ({"mode": "none"}, 'spec.predictor.logger.mode: Unsupported value: "none"'),
        ({"mode": "request", "storage": {"path": "x"}}, "invalid logger storage configuration"),
    ]:
        spec = {"predictor": {"model": {"modelFormat": {"name": "sklearn"}}, "logger": logger}}
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={cluster.kubeconfig}", "create", "-f", "-"],
            input=json.dumps({**service, "spec": spec}),
            capture_output=True,
            text=True,
        )
        assert done.returncode and (not cluster.api or reason in done.stderr)


def test_on_minio_the_recorder_has_a_user_that_writes_there_and_reads_nothing(deploy, cluster, kserve, minio_store):
    store = bucket_in(minio_store)
    first = version(succeeded(deploy(0, "--record-requests", store=store, share=False, ingress=kserve.ingress)))
    keys = decoded(secret(cluster))
    recorder, reader = (client(store, *(keys[name] for name in names)) for names in (RECORDER_KEYS, READER_KEYS))
    own = f"{cluster.namespace}/textclustering/2026-11-29/a.json"
    recorder.put_object(Bucket=BUCKET, Key=own, Body=b"[]")
    for refused in (
        lambda: recorder.put_object(Bucket=BUCKET, Key="elsewhere/textclustering/a.json", Body=b"[]"),
        lambda: recorder.put_object(Bucket=store.bucket, Key=own, Body=b"[]"),
        lambda: recorder.get_object(Bucket=BUCKET, Key=own),
        lambda: recorder.list_objects_v2(Bucket=BUCKET),
        lambda: recorder.list_objects_v2(Bucket=store.bucket),
        lambda: recorder.delete_object(Bucket=BUCKET, Key=own),
        lambda: reader.get_object(Bucket=BUCKET, Key=own),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
    [rule] = store.s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert (rule["Filter"], rule["Expiration"]) == ({"Prefix": f"{cluster.namespace}/textclustering/"}, {"Days": 30})
    again = succeeded(deploy(0, "--record-requests", "--record-days", "7", store=store, ingress=kserve.ingress))
    assert version(again) == first and "Created store user" not in again.err, "the same user records on"
    [rule] = store.s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert rule["Expiration"] == {"Days": 7}
    done = succeeded(deploy(0, "--delete", "--delete-requests", store=store))
    assert done.err.count("Deleted store user kserve-textclustering-") == 2
    empty(store)


def decoded(secret):
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def client(store, access_key, secret_key):
    return boto3.client(
        "s3",
        endpoint_url=store.url,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )
