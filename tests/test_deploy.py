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

import stub_kserve as kserve_module
from deploy_fixtures import *  # noqa: F403 - fixtures
from deploy_fixtures import bucket_in, deploy_process, manifests, run_weed, stub_kserve, train


def version(done):
    """The version that a run used."""
    return re.search(r"version (v[0-9a-f]{12})", done.err)[1]


def succeeded(done):
    assert done.code == 0, done.err
    return done


def traffic(cluster):
    service = cluster.get("inferenceservice", "textclustering")
    shares = {}
    for target in service["status"]["components"]["transformer"]["traffic"]:
        revision = cluster.get("revision", target["revisionName"])
        name = revision["metadata"]["labels"]["app.kubernetes.io/version"]
        shares[name] = shares.get(name, 0) + target["percent"]
    return {name: share for name, share in shares.items() if share}


def pins(cluster, stub):
    """Version of each transformer revision -> version of the predictor revision that it calls."""
    found = {}
    for pod in stub.pods[cluster.namespace, "textclustering", "transformer"]:
        args = pod.container["args"]
        predictor = args[args.index("--predictor_host") + 1].split(".")[0]
        found[label(pod)] = next(
            label(other)
            for other in stub.pods[cluster.namespace, "textclustering", "predictor"]
            if other.name == predictor
        )
    return found


def label(pod):
    return pod.template["labels"]["app.kubernetes.io/version"]


# --- Artefacts --------------------------------------------------------------------------------


def test_artefacts_are_uploaded_once_into_prefixes_of_their_own_and_repaired(
    deploy, cluster, kserve, store, training_runs
):
    root = f"textclustering/{version(succeeded(deploy(0, ingress=kserve.ingress)))}"
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
        del spec["predictor"]["annotations"]  # they name the store's user, which a dry run does not know
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
        assert spec[component]["serviceAccountName"] == "textclustering"
    args = spec["transformer"]["containers"][0]["args"]
    assert args[args.index("--workers") + 1] == "1"


def test_the_inference_service_fits_kserves_published_schema(deploy):
    _, manifests = dry_run(deploy)
    service = manifests["InferenceService"]
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


def secret(cluster):
    data = cluster.get("secret", "textclustering")["data"]
    return tuple(base64.b64decode(data[key]).decode() for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))


def test_plain_s3_gives_the_service_the_callers_keys_with_a_warning(deploy, cluster, kserve, store):
    done = succeeded(deploy(0, ingress=kserve.ingress))
    assert "WARNING The service reads the store with your own keys" in done.err
    assert secret(cluster) == store.keys
    annotations = cluster.get("secret", "textclustering")["metadata"]["annotations"]
    assert annotations["serving.kserve.io/s3-endpoint"] == store.url.split("//")[1]
    assert annotations["serving.kserve.io/s3-usehttps"] == "0"
    assert [b["Name"] for b in store.s3.list_buckets()["Buckets"]].count("minio") == 0


def test_minio_gives_the_service_a_user_that_can_only_read_its_bucket(deploy, cluster, kserve, minio_store):
    place, other = bucket_in(minio_store), bucket_in(minio_store)
    other.s3.create_bucket(Bucket=other.bucket)
    done = succeeded(deploy(0, store=place, ingress=kserve.ingress))
    assert "WARNING" not in done.err
    access, key = keys = secret(cluster)
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
    succeeded(deploy(1, store=place, ingress=kserve.ingress))
    assert secret(cluster) == keys, "a user that works is kept"
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
    assert secret(cluster) == place.keys


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


# --- Versions ---------------------------------------------------------------------------------


def test_a_new_version_takes_over_and_each_transformer_keeps_its_own_predictor(deploy, cluster, kserve):
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    done = succeeded(deploy(1, ingress=kserve.ingress))
    second = version(done)
    assert traffic(cluster) == {second: 100} and f"Traffic: {second} 100 %" in done.err
    assert pins(cluster, kserve) == {first: first, second: second}


def test_canary_gets_its_share_list_shows_it_and_promote_gives_it_the_rest(deploy, cluster, kserve):
    assert "No version of textclustering yet" in succeeded(deploy(0, "--list")).err
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    second = version(succeeded(deploy(1, "--canary", "20", ingress=kserve.ingress)))
    assert traffic(cluster) == {first: 80, second: 20}
    lines = succeeded(deploy(0, "--list")).out.splitlines()
    assert lines[0].split() == ["VERSION", "TRAINED", "UPLOADED", "V-MEASURE", "ARI", "SILHOUETTE", "TRAFFIC"]
    assert re.fullmatch(rf"{first} +2026-11-24 02:30 +\S+ \S+ +1.000 +0.900 +0.250 +80 %", lines[1])
    assert re.fullmatch(rf"{second} .* 20 %", lines[2])
    succeeded(deploy(1, "--promote", ingress=kserve.ingress))
    assert traffic(cluster) == {second: 100}
    done = deploy(1, "--promote")
    assert done.code == 2 and "no canary to promote" in done.err
    done = deploy(1, "--canary", "20")
    assert done.code == 2 and "gets all requests already" in done.err


def test_rollback_of_a_canary_and_of_a_finished_rollout(deploy, cluster, kserve):
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    done = deploy(0, "--rollback", ingress=kserve.ingress)
    assert done.code == 2 and "nothing to return to" in done.err
    second = version(succeeded(deploy(1, "--canary", "20", ingress=kserve.ingress)))
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {first: 100}
    succeeded(deploy(1, ingress=kserve.ingress))
    assert traffic(cluster) == {second: 100}
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {first: 100}
    again = succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert "already" in again.err and traffic(cluster) == {first: 100}


def test_after_a_rollback_the_next_deploy_never_serves_what_was_rolled_back(deploy, cluster, kserve):
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    seen = watch_traffic(kserve, cluster)
    third = version(succeeded(deploy(2, ingress=kserve.ingress)))
    assert traffic(cluster) == {third: 100}
    assert second not in seen() and {first, third} == set(seen())


def watch_traffic(stub, cluster):
    """The versions that ever had traffic from now on."""
    original, seen = kserve_module.propagate, set()

    def propagate(status, component, pods, percent, mode):
        original(status, component, pods, percent, mode)
        if component == "transformer":
            names = {pod.name: label(pod) for pod in pods}
            seen.update(
                names[target["revisionName"]]
                for target in status["components"][component].get("traffic", [])
                if target["percent"]
            )

    kserve_module.propagate = propagate

    def stop():
        kserve_module.propagate = original
        return seen

    return stop


def test_delete_removes_the_service_and_only_when_asked_the_artefacts(deploy, cluster, kserve, store):
    succeeded(deploy(0, ingress=kserve.ingress))
    succeeded(deploy(0, "--delete"))
    for kind in ("inferenceservices", "secrets", "serviceaccounts"):
        assert "textclustering" not in cluster.kubectl("get", kind, "-n", cluster.namespace)
    assert len(store.list()) == 4
    succeeded(deploy(0, "--delete", "--delete-artefacts"))
    assert store.list() == []


def test_no_wait_returns_at_once_and_says_how_to_look(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, images=[]):
        done = succeeded(deploy(0, "--no-wait"))
    assert "kubectl get inferenceservice textclustering" in done.err and done.out == ""


# --- Not ready --------------------------------------------------------------------------------


def test_image_missing_says_so_and_the_previous_version_keeps_serving(deploy, cluster, kserve):
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    done = deploy(1, "--transformer-image", "docker.io/mlops-poc/nothing:1", ingress=kserve.ingress)
    assert done.code == 1
    assert "ImagePullBackOff" in done.err and "docker.io/mlops-poc/nothing:1" in done.err
    assert "What to do: the image cannot be had" in done.err
    assert f"serving meanwhile: {first} 100 %" in done.err.splitlines()[-1]
    assert traffic(cluster) == {first: 100}
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {first: 100}
    second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    assert traffic(cluster) == {second: 100}


def test_no_room_says_so(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, cpus=1):
        done = deploy(0, "--cpu-request", "2", timeout=4)
    assert done.code == 1
    assert "Insufficient cpu" in done.err and "lower --cpu-request" in done.err


def test_a_storage_initializer_that_fails_shows_its_last_lines(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, download=True) as stub:
        done = deploy(0, "--minio-endpoint-cluster", "127.0.0.1:9")
        assert done.code == 1
        assert "container storage-initializer: CrashLoopBackOff" in done.err
        if cluster.api:  # a real API server asks the kubelet for logs, and there is none
            assert re.search(r"\| .*EndpointConnectionError", done.err)
            assert "check --minio-endpoint-cluster" in done.err
        succeeded(deploy(0, ingress=stub.ingress))  # the right endpoint is reason enough for new pods


def test_standard_mode_deploys_without_a_pin_and_refuses_a_canary(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, mode="Standard") as stub:
        succeeded(deploy(0, "--no-wait"))
        args = cluster.get("inferenceservice", "textclustering")["spec"]["transformer"]["containers"][0]["args"]
        assert "--predictor_host" not in args
        succeeded(deploy(0, ingress=stub.ingress))
        for flags in (["--canary", "20"], ["--rollback"]):
            done = deploy(1, *flags)
            assert done.code == 2 and "Standard mode" in done.err


def test_an_ingress_that_does_not_answer_is_named(deploy, kserve):
    done = deploy(0, ingress="http://127.0.0.1:9", timeout=3)
    assert done.code == 1
    assert "http://127.0.0.1:9" in done.err and "--ingress" in done.err.splitlines()[-1]


def test_a_run_that_was_interrupted_between_predictor_and_transformer_goes_on(deploy, cluster, tmp_path):
    done = deploy(0, timeout=2)  # nobody makes a predictor of it
    assert done.code == 1 and "KServe made no predictor" in done.err.splitlines()[-1]
    assert "transformer" not in cluster.get("inferenceservice", "textclustering")["spec"]
    with stub_kserve(cluster, tmp_path) as stub:
        succeeded(deploy(0, ingress=stub.ingress))


# --- All of it for real -----------------------------------------------------------------------


def test_deploy_canary_promote_rollback_with_real_downloads_and_models(deploy, cluster, store, training_runs, tmp_path):
    """KServe's storage initializer, a scikit-learn predictor and the transformer of this repository serve it."""
    with stub_kserve(cluster, tmp_path, serve=True) as stub:
        first = succeeded(deploy(0, ingress=stub.ingress, timeout=240))
        number = json.loads(re.search(r"answers: (.*)", first.err)[1])["predictions"][0]
        clusters = json.loads((training_runs[0] / "clusters.json").read_text())["clusters"]
        terms = " ".join(term for term, _ in clusters[number]["terms"])
        assert f"Cluster {number}: {terms}" in first.err and terms in first.out, "its own terms, its own cluster"
        for pod in stub.pods[cluster.namespace, "textclustering", "predictor"]:
            assert os.listdir(stub.work / cluster.namespace / pod.name) == ["model.joblib"]
        curl = subprocess.run(first.out, shell=True, capture_output=True, text=True)
        assert json.loads(curl.stdout) == {"predictions": [number]}
        succeeded(deploy(1, "--canary", "50", ingress=stub.ingress, timeout=240))
        assert pins(cluster, stub) == {key: key for key in pins(cluster, stub)} and len(pins(cluster, stub)) == 2
        for flag in ("--promote", "--rollback"):
            assert "answers" in succeeded(deploy(1, flag, ingress=stub.ingress, timeout=240)).err
        assert traffic(cluster) == {version(first): 100}
