"""deploy_service.py among the stores, networks and clusters that people really have."""

import json
import os
import socket
import subprocess
from types import SimpleNamespace

import pytest

from store import model_store, service_user
from store.credentials import Keys, aws_session
from support.deployment import bucket_in, keys_of_service, run_weed, secret, stub_kserve, succeeded

# --- The store --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority of one's own, and the certificate that it gave a store on 127.0.0.1."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new_key, "-days", "2", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Our authority")
    address = ("-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1")
    openssl("req", *new_key, "-keyout", "store.key", "-out", "store.csr", *address)
    sign = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-copy_extensions", "copy")
    openssl("x509", "-req", "-in", "store.csr", "-out", "store.crt", *sign)
    return folder


@pytest.fixture(scope="module")
def https_server(authority, tmp_path_factory):
    certificate = {"cert": authority / "store.crt", "key": authority / "store.key"}
    with run_weed(tmp_path_factory.mktemp("weed"), certificate=certificate) as server:
        yield server


@pytest.fixture
def https_store(https_server):
    place = bucket_in(https_server)
    place.url = https_server.https_url
    return place


def in_cluster(place):
    return ("--minio-endpoint-cluster", place.url)


@pytest.mark.parametrize("how", ["--store-ca", "AWS_CA_BUNDLE"])
def test_a_store_with_an_authority_of_its_own_is_trusted_here_and_in_the_pods(
    how, deploy, cluster, https_store, authority, tmp_path
):
    given = str(authority / "ca.crt")
    flags, environment = (["--store-ca", given], {}) if how == "--store-ca" else ([], {"AWS_CA_BUNDLE": given})
    with stub_kserve(cluster, tmp_path, download=True) as stub:  # KServe's own storage initializer, over TLS
        done = deploy(0, *in_cluster(https_store), *flags, store=https_store, ingress=stub.ingress, **environment)
        succeeded(done)
        succeeded(deploy(0, "--delete", *flags, store=https_store, **environment))
        selector = "serving.kserve.io/inferenceservice=textclustering"
        assert cluster.list("configmaps", selector) == []


def test_a_store_that_is_not_trusted_says_what_would_make_it_so(deploy, cluster, kserve, https_store, authority):
    done = deploy(0, store=https_store)
    assert done.code == 1 and "is not trusted" in done.err and "--store-ca" in done.err.splitlines()[-1]
    for path in (authority / "nowhere", authority / "ca.key"):
        done = deploy(0, "--store-ca", str(path), store=https_store)
        assert done.code == 2 and str(path) in done.err and "no file of certificates" in done.err


def test_http_to_a_store_that_speaks_https_says_so(deploy, cluster, kserve, https_store):
    https_store.url = https_store.url.replace("https:", "http:")
    done = deploy(0, store=https_store)
    assert done.code == 1 and f"try --minio-endpoint {https_store.url.replace('http:', 'https:')}" in done.err


def test_a_tls_error_of_the_admin_api_ends_the_deployment_and_gives_no_keys_away(
    deploy, cluster, kserve, https_store, authority, monkeypatch
):
    trusting = service_user.minio_admin

    def without_authority(store):
        return trusting(SimpleNamespace(endpoint=store.endpoint, keys=store.keys, authority=None))

    monkeypatch.setattr(service_user, "minio_admin", without_authority)
    done = deploy(0, "--store-ca", str(authority / "ca.crt"), store=https_store, here=True)
    assert done.code == 1 and "CERTIFICATE_VERIFY_FAILED" in done.err.splitlines()[-1]
    assert cluster.namespace not in cluster.kubectl("get", "namespaces"), "nothing was applied"


def test_ones_own_keys_are_given_to_the_service_only_where_one_says_so(deploy, cluster, kserve, store):
    done = deploy(0, share=False)
    assert done.code == 2 and "no MinIO admin API" in done.err and "--share-keys" in done.err.splitlines()[-1]
    assert cluster.namespace not in cluster.kubectl("get", "namespaces")
    done = succeeded(deploy(0, ingress=kserve.ingress))
    assert "WARNING The service reads the store with your own keys" in done.err
    assert keys_of_service(cluster) == store.keys


def test_no_trailing_checksums_which_older_stores_refuse(store, monkeypatch, tmp_path):
    keys = Keys(*store.keys, None, "of the test")
    place = model_store.ModelStore(aws_session(), store.url, store.bucket, "a-namespace", "m", keys)
    sent = []
    place.s3.meta.events.register("before-send.s3", lambda request, **_: sent.append(dict(request.headers)))
    place.create_bucket()
    (tmp_path / "file").write_bytes(b"content")
    place.upload_file(tmp_path / "file", "m/file", model_store.hashlib.sha256(b"content").hexdigest())
    assert len(sent) > 2
    for headers in sent:
        names = {name.lower() for name in headers}
        assert not {name for name in names if name.startswith(("x-amz-trailer", "x-amz-checksum", "x-amz-sdk-check"))}
        assert b"aws-chunked" not in headers.get("Content-Encoding", b"")


def test_a_store_on_the_loopback_address_is_not_asked_through_a_proxy(deploy, cluster, kserve, store):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.1)
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        succeeded(deploy(0, ingress=kserve.ingress, http_proxy=url, HTTP_PROXY=url, NO_PROXY=None, no_proxy=None))
        with pytest.raises(TimeoutError):
            proxy.accept()


@pytest.mark.parametrize("flags", [[], ["--access-key", "me", "--secret-key", "mine"], ["--list"]])
def test_a_profile_that_is_not_there_is_named(flags, deploy, cluster, kserve):
    done = deploy(0, *flags, AWS_PROFILE="nobody", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert done.code == 2 and "AWS_PROFILE" in done.err and "(nobody)" in done.err.splitlines()[-1]


def test_a_dry_run_needs_no_profile(deploy):
    succeeded(deploy(0, "--dry-run", AWS_PROFILE="nobody", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None))


@pytest.mark.parametrize("option", ["--minio-endpoint", "--minio-endpoint-cluster", "--ingress"])
@pytest.mark.parametrize("form", ["http://minio:opensesame@store:9000", "http://opensesame@store", "http://u:p@[::1"])
def test_credentials_in_an_address_are_refused_and_not_shown(option, form, deploy):
    done = deploy(0, option, form)
    assert done.code == 2 and "Traceback" not in done.err
    last = done.err.splitlines()[-1]
    assert option in last and "AWS_ACCESS_KEY_ID" in last
    assert "opensesame" not in done.err + done.out and "u:p" not in done.err + done.out


@pytest.mark.parametrize("address", ["http://store:port", "http://store:123456", "http://[::1", "http://a b"])
def test_an_address_that_is_none_is_refused_and_named(address, deploy):
    done = deploy(0, "--minio-endpoint", address)
    assert done.code == 2 and address in done.err and "Traceback" not in done.err


def test_an_ipv6_address_is_an_address(deploy):
    succeeded(deploy(0, "--dry-run", "--minio-endpoint", "http://[::1]:9000", "--ingress", "https://[fd00::1]"))


def test_delete_artefacts_removes_what_a_versioned_bucket_would_keep(deploy, cluster, kserve, store):
    store.s3.create_bucket(Bucket=store.bucket)
    store.s3.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
    store.s3.put_object(Bucket=store.bucket, Key="another/model", Body=b"")
    succeeded(deploy(0, ingress=kserve.ingress))
    done = succeeded(deploy(0, "--delete", "--delete-artefacts"))
    assert "Deleted 4 objects" in done.err
    left = store.s3.list_object_versions(Bucket=store.bucket)
    assert [item["Key"] for item in left["Versions"]] == ["another/model"] and not left.get("DeleteMarkers")


# --- The cluster ------------------------------------------------------------------------------


def test_an_aggregated_api_that_is_down_stops_nothing(deploy, cluster, kserve):
    if not cluster.api:
        pytest.skip("needs the stub of the API server: the real one has no aggregated API to take down")
    cluster.api.sick = True
    for run, *flags in (
        (0,),
        (1, "--canary", "20"),
        (1, "--promote"),
        (1, "--rollback"),
        (1, "--list"),
        (1, "--delete"),
    ):
        succeeded(deploy(run, *flags, ingress=kserve.ingress))


def login_plugin(path, server, command, arguments=()):
    user = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": command,
        "args": list(arguments),
        "installHint": "Install it with your package manager",
        "interactiveMode": "IfAvailable",
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {"exec": user}}],
    }
    path.write_text(json.dumps(config))
    return str(path)


def test_a_login_plugin_that_is_missing_or_fails_speaks_for_itself(deploy, tmp_path):
    missing = login_plugin(tmp_path / "missing", "https://127.0.0.1:9443", "cloud-auth-plugin")
    done = deploy(0, KUBECONFIG=missing)
    last = done.err.splitlines()[-1]
    assert done.code == 1 and "kubectl cannot log in" in last and "is it up" not in last
    assert "executable cloud-auth-plugin not found" in last and "Install it with your package manager" in last

    script = "echo 'Your session has run out: run cloud login' >&2; exit 1"
    fails = login_plugin(tmp_path / "fails", "https://127.0.0.1:9443", "sh", ["-c", script])
    last = deploy(0, KUBECONFIG=fails).err.splitlines()[-1]
    assert "kubectl cannot log in" in last and "Your session has run out: run cloud login" in last


def test_no_chosen_context_is_named_as_the_cause(deploy, cluster, tmp_path):
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "json"))
    config["current-context"] = ""
    (tmp_path / "undecided").write_text(json.dumps(config))
    done = deploy(0, KUBECONFIG=str(tmp_path / "undecided"))
    assert done.code == 2 and "choose a context" in done.err and done.err.count(" ERROR ") == 1


# --- What was given ---------------------------------------------------------------------------


def test_a_folder_for_the_model_is_called_a_folder(deploy, training_runs):
    done = deploy(0, "--model-path", str(training_runs[0]))
    assert done.code == 2 and f"{training_runs[0]} is a folder" in done.err


def test_a_model_name_that_makes_no_bucket_name_says_so(deploy):
    done = deploy(0, "--model-name", "ab", "--bucket", "")
    last = done.err.splitlines()[-1]
    assert done.code == 2 and "no valid bucket name" in last and "give one with --bucket" in last


def test_a_secret_for_a_private_registry_goes_to_the_service_account(deploy, cluster, kserve):
    succeeded(deploy(0, "--image-pull-secret", "our-registry", ingress=kserve.ingress))
    name = secret(cluster)["metadata"]["name"]
    account = cluster.get("serviceaccount", name)
    assert account["imagePullSecrets"] == [{"name": "our-registry"}]
    assert os.environ.get("DEPLOY_TEST_KUBECONFIG") or account["secrets"] == [{"name": name}]
