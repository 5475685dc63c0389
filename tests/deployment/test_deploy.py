"""deploy_service.py against a real S3 server, the real kubectl and an API server."""

import base64
import json
import os
import re
import subprocess
import time

import kserve as kserve_sdk
import kubernetes.client
import minio
import pytest
import yaml
from minio.credentials import StaticProvider

from support.deployment import (
    bucket_in,
    deploy_process,
    keys_of_service,
    manifests,
    run_weed,
    secret,
    succeeded,
    train,
    version,
)

# --- Artefacts --------------------------------------------------------------------------------


def test_artefacts_are_uploaded_once_into_prefixes_of_their_own_and_repaired(
    deploy, cluster, kserve, store, training_runs
):
    root = f"{cluster.namespace}/textclustering/{version(succeeded(deploy(0, ingress=kserve.ingress)))}"
    assert store.list() == [
        f"{root}/model/model.joblib",
        f"{root}/transformer/clusters.json",
        f"{root}/transformer/transformer.joblib",
        f"{root}/version.json",
    ]

    def dates():
        return [item["LastModified"] for item in store.s3.list_objects_v2(Bucket=store.bucket)["Contents"]]

    before = dates()
    assert "nothing to upload" in succeeded(deploy(0, ingress=kserve.ingress)).err
    assert dates() == before
    for component in ("predictor", "transformer"):
        assert len(kserve.pods[cluster.namespace, "textclustering", component]) == 1, "no new pods either"

    store.s3.put_object(Bucket=store.bucket, Key=f"{root}/model/model.joblib", Body=b"damaged")
    store.s3.delete_object(Bucket=store.bucket, Key=f"{root}/transformer/clusters.json")
    assert "Uploaded" in succeeded(deploy(0, ingress=kserve.ingress)).err
    stored = store.s3.get_object(Bucket=store.bucket, Key=f"{root}/model/model.joblib")["Body"].read()
    assert stored == (training_runs[0] / "model.joblib").read_bytes()
    assert len(store.list()) == 4
    for component in ("predictor", "transformer"):
        pods = kserve.pods[cluster.namespace, "textclustering", component]
        assert len(pods) == 2, "what runs may have loaded what was damaged"
    succeeded(deploy(0, ingress=kserve.ingress))
    assert len(kserve.pods[cluster.namespace, "textclustering", "predictor"]) == 2


def large(directory):
    """A training run whose transformer takes a while to upload."""
    train(directory)
    with (directory / "transformer.joblib").open("ab") as file:
        file.write(os.urandom(64 << 20))
    about = json.loads((directory / "clusters.json").read_text())
    digest = subprocess.run(["sha256sum", directory / "transformer.joblib"], capture_output=True, text=True)
    about["sha256"]["transformer.joblib"] = digest.stdout.split()[0]
    (directory / "clusters.json").write_text(json.dumps(about))
    return directory


def test_a_store_killed_in_the_middle_leaves_no_version_and_the_next_run_goes_on(deploy, cluster, kserve, tmp_path):
    directory, disk = large(tmp_path / "large"), tmp_path / "disk"
    disk.mkdir()
    with run_weed(disk) as server:
        place = bucket_in(server)
        with deploy_process(directory, cluster, place) as run:
            while "Uploaded" not in (line := run.stderr.readline()):
                assert " ERROR " not in line, line
            time.sleep(0.05)  # the large file is on its way now
            server.process.kill()
            rest = run.stderr.read()
            assert run.wait() == 1
    assert "cannot be reached or broke off" in rest.splitlines()[-1] and "Traceback" not in rest
    assert cluster.namespace not in cluster.kubectl("get", "namespaces")
    with run_weed(disk, server.ports) as server:
        again = bucket_in(server)
        again.bucket = place.bucket
        assert not [key for key in again.list() if key.endswith("version.json")]
        assert "No version" in succeeded(deploy(directory, "--list", store=again)).err
        succeeded(deploy(directory, store=again, ingress=kserve.ingress))
        assert [key for key in again.list() if key.endswith("version.json")]


# --- Resources --------------------------------------------------------------------------------


def dry_run(deploy, *flags):
    done = succeeded(deploy(0, "--dry-run", *flags, store=NOWHERE, KUBECONFIG="/nowhere"))
    return done, {item["kind"]: item for item in yaml.safe_load_all(done.out)}


class NOWHERE:
    """A dry run needs neither store nor cluster."""

    url, keys, bucket = "http://127.0.0.1:9", ("key-of-nobody", "secret-of-nobody"), "a-bucket"


def test_dry_run_prints_what_kubectl_can_apply_and_no_secret(deploy, cluster):
    done, manifests = dry_run(deploy)
    assert list(manifests) == ["Namespace", "Secret", "ServiceAccount", "InferenceService"]
    assert "secret-of-nobody" not in done.out + done.err and "key-of-nobody" not in done.out
    assert "********" in done.out
    for flags in ([], ["--server-side"]):
        applied = cluster.kubectl("apply", *flags, "-f", "-", stdin=done.out)
        assert len(applied.splitlines()) == 4


def test_what_is_deployed_is_what_dry_run_printed_but_for_the_pin(deploy, cluster, kserve, store):
    printed = [*yaml.safe_load_all(succeeded(deploy(0, "--dry-run")).out)][-1]["spec"]
    succeeded(deploy(0, ingress=kserve.ingress))
    live = cluster.get("inferenceservice", "textclustering")["spec"]
    for spec in (live, printed):
        # The name of the credentials depends on the keys, and an annotation on the upload, which a dry run cannot know.
        del spec["predictor"]["annotations"], spec["predictor"]["serviceAccountName"]
    assert live["predictor"] == printed["predictor"]
    args = live["transformer"]["containers"][0]["args"]
    assert args[-2] == "--predictor_host" and args[:-2] == printed["transformer"]["containers"][0]["args"]


def test_prometheus_is_told_to_read_the_model_server_of_each_pod(deploy):
    _, manifests = dry_run(deploy)
    for component in manifests["InferenceService"]["spec"].values():
        annotations = component["annotations"]
        assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]) == ("true", "8080")
        # "true" would make KServe put another port there.
        assert annotations["serving.kserve.io/enable-prometheus-scraping"] == "false"


def test_every_container_is_locked_down_and_small(deploy):
    _, manifests = dry_run(deploy, "--cpu-request", "200m", "--memory-limit", "3Gi")
    spec = manifests["InferenceService"]["spec"]
    for component, container in (
        ("predictor", spec["predictor"]["model"]),
        ("transformer", spec["transformer"]["containers"][0]),
    ):
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["resources"] == {
            "requests": {"cpu": "200m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "3Gi"},
        }
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert spec[component]["volumes"] == [{"name": "tmp", "emptyDir": {}}]
        assert spec[component]["serviceAccountName"].startswith("textclustering-store-")
    args = spec["transformer"]["containers"][0]["args"]
    assert args[args.index("--workers") + 1] == "1"


def test_replicas_are_bound_and_fixed_ones_do_without_knatives_activator(deploy):
    _, several = dry_run(deploy)
    _, fixed = dry_run(deploy, "--min-replicas", "2", "--max-replicas", "2")
    burst = "autoscaling.knative.dev/target-burst-capacity"
    for component in ("predictor", "transformer"):
        part = several["InferenceService"]["spec"][component]
        assert (part["minReplicas"], part["maxReplicas"]) == (1, 3) and burst not in part["annotations"]
        part = fixed["InferenceService"]["spec"][component]
        assert (part["minReplicas"], part["maxReplicas"], part["annotations"][burst]) == (2, 2, "0")


def test_a_minimum_similarity_is_an_argument_of_the_transformer_and_makes_new_pods(deploy):
    option = ["--min-similarity", "0.4"]
    (with_it, without) = (dry_run(deploy, *flags)[1]["InferenceService"]["spec"] for flags in (option, []))
    arguments = without["transformer"]["containers"][0]["args"]
    assert with_it["transformer"]["containers"][0]["args"] == arguments + option
    digest = "mlops-poc/spec-sha256"
    assert with_it["predictor"]["annotations"][digest] != without["predictor"]["annotations"][digest]


def test_the_inference_service_fits_kserves_published_schema(deploy):
    _, manifests = dry_run(deploy)
    service = manifests["InferenceService"]
    fits(dry_run(deploy, "--collocate")[1]["InferenceService"]["spec"], kserve_sdk.V1beta1InferenceServiceSpec)
    fits(service["spec"], kserve_sdk.V1beta1InferenceServiceSpec)
    service["spec"]["predictor"]["model"]["storageUrl"] = "misspelt"
    with pytest.raises(AssertionError, match="storageUrl"):
        fits(service["spec"], kserve_sdk.V1beta1InferenceServiceSpec)


def fits(value, kind, path="spec"):
    """Check a manifest against the models that KServe's SDK generates from its OpenAPI document."""
    if isinstance(kind, str):
        container = re.fullmatch(r"(list|dict)(?:\[(.*)\]|\((?:str, )?(.*)\))", kind)
        if container:
            inner = container[2] or container[3]
            pairs = value.items() if container[1] == "dict" else enumerate(value)
            for key, item in pairs:
                fits(item, inner, f"{path}.{key}")
            return None
        basic = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
        if kind in basic:
            assert isinstance(value, basic[kind]), f"{path} is no {kind}"
            return None
        kind = getattr(kserve_sdk, kind, None) or getattr(kubernetes.client, kind, None)
        if kind is None:
            return None
    assert isinstance(value, dict), f"{path} is no object"
    if not hasattr(kind, "attribute_map"):
        return fits_pydantic(value, kind, path)
    names = {json_name: name for name, json_name in kind.attribute_map.items()}
    for key, item in value.items():
        assert key in names, f"{path}.{key} is unknown"
        fits(item, kind.openapi_types[names[key]], f"{path}.{key}")


def fits_pydantic(value, kind, path):
    kind.model_validate(value)
    known = {field.alias or name for name, field in kind.model_fields.items()}
    assert set(value) <= known, f"{path}: {set(value) - known} unknown"


def test_a_number_like_key_survives_yaml(deploy, cluster, kserve, store):
    """kubectl's YAML takes 12e4 for a number; PyYAML writes it without quotes."""
    text = manifests.dump(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": "default", "labels": {"version": "12e4"}},
        }
    )
    cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)


# --- Credentials ------------------------------------------------------------------------------


def test_plain_s3_gives_the_service_the_callers_keys_with_a_warning(deploy, cluster, kserve, store):
    done = succeeded(deploy(0, ingress=kserve.ingress))
    assert "WARNING The service reads the store with your own keys" in done.err
    assert keys_of_service(cluster) == store.keys
    annotations = secret(cluster)["metadata"]["annotations"]
    assert annotations["serving.kserve.io/s3-endpoint"] == store.url.split("//")[1]
    assert annotations["serving.kserve.io/s3-usehttps"] == "0"
    assert [b["Name"] for b in store.s3.list_buckets()["Buckets"]].count("minio") == 0


def test_minio_gives_the_service_a_user_that_can_only_read_its_bucket_and_creates_no_access_keys(
    deploy, cluster, kserve, minio_store
):
    place, other = bucket_in(minio_store), bucket_in(minio_store)
    other.s3.create_bucket(Bucket=other.bucket)
    done = succeeded(deploy(0, store=place, ingress=kserve.ingress))
    assert "WARNING" not in done.err
    access, key = keys = keys_of_service(cluster)
    assert access.startswith("kserve-textclustering-") and key not in done.err
    service = bucket_in(type(minio_store)(url=minio_store.url, keys=keys)).s3
    first = place.list()[0]
    assert service.get_object(Bucket=place.bucket, Key=first)["Body"].read()
    refused = [
        lambda: service.put_object(Bucket=place.bucket, Key="new", Body=b""),
        lambda: service.delete_object(Bucket=place.bucket, Key=first),
        lambda: service.list_objects_v2(Bucket=other.bucket),
    ]
    for call in refused:
        with pytest.raises(Exception, match="AccessDenied"):
            call()
    endpoint = minio_store.url.split("//")[1]
    own = minio.MinioAdmin(endpoint=endpoint, secure=False, credentials=StaticProvider(*keys))
    for call in (
        lambda: own.add_service_account(
            access_key="another-key", secret_key="another-secret", name="x", description="y"
        ),
        lambda: own.user_add(access, "another-secret"),
    ):
        with pytest.raises(Exception, match="AccessDenied"):
            call()
    succeeded(deploy(1, store=place, ingress=kserve.ingress))
    assert keys_of_service(cluster) == keys, "a user that works is kept"
    succeeded(deploy(1, "--delete", store=place))
    with pytest.raises(Exception, match="InvalidAccessKeyId"):
        service.list_objects_v2(Bucket=place.bucket)


def test_minio_user_without_admin_rights_falls_back_with_a_warning(deploy, cluster, kserve, minio_store):
    admin = minio.MinioAdmin(
        endpoint=minio_store.url.split("//")[1],
        secure=False,
        credentials=StaticProvider(*minio_store.keys),
    )
    admin.user_add("writer", "writersecret")
    admin.policy_set("readwrite", user="writer")
    place = bucket_in(minio_store)
    place.keys = ("writer", "writersecret")
    done = succeeded(deploy(0, store=place, ingress=kserve.ingress))
    assert "these keys may not create users" in done.err
    assert keys_of_service(cluster) == place.keys


def test_no_secret_in_the_log_at_any_level_nor_in_a_command_line(deploy, cluster, kserve, store, tmp_path):
    spy = tmp_path / "bin" / "kubectl"
    spy.parent.mkdir()
    real = subprocess.run(["which", "kubectl"], capture_output=True, text=True).stdout.strip()
    spy.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/commands\nexec {real} "$@"\n')
    spy.chmod(0o755)
    done = succeeded(
        deploy(0, "--log-level", "DEBUG", ingress=kserve.ingress, PATH=f"{spy.parent}:{os.environ['PATH']}")
    )
    commands = (tmp_path / "commands").read_text()
    assert "apply" in commands
    for form in (store.keys[1], base64.b64encode(store.keys[1].encode()).decode()):
        assert form not in done.err + done.out + commands
