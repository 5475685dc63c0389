"""Versions and services do not share fate: failed deploys, restarts, two namespaces, full nodes, concurrent deploys.

Real S3 server, real kubectl, an API server, and a stub of KServe and Knative.
"""

import json
import re
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from deployment import rollout, waiting
from support.deployment import deploy_process, label, pins, stub_kserve, succeeded, traffic, version


def predict(stub, cluster, name="textclustering", path="/v1/models/textclustering:predict"):
    """The HTTP status of a request from outside the cluster."""
    headers = {"Host": f"{name}.{cluster.namespace}.example.com"}
    request = urllib.request.Request(stub.ingress + path, b'{"instances": [["goal"]]}', headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def pods_of(stub, cluster, version, component=None):
    keys = [key for key in stub.pods if key[0] == cluster.namespace and component in (None, key[2])]
    return [pod for key in keys for pod in stub.pods[key] if label(pod) == version]


def restart(stub, cluster, version):
    """Delete the pods of a version, as an eviction would, and wait for the new ones."""
    names = [name for pod in pods_of(stub, cluster, version) for name in pod.names]
    cluster.kubectl("delete", "pods", *names, "-n", cluster.namespace, "--wait=false")
    eventually(lambda: not any(name in pod.names for pod in pods_of(stub, cluster, version) for name in names))
    eventually(lambda: all(pod.ready or pod.failure for pod in pods_of(stub, cluster, version)))


def credentials(cluster):
    return {
        kind: {item["metadata"]["name"]: item for item in cluster.list(kind, SERVICE)}
        for kind in ("secrets", "serviceaccounts", "configmaps")
    }


SERVICE = "serving.kserve.io/inferenceservice=textclustering"


# --- Credentials of their own --------------------------------------------------------------------


def test_after_a_failed_deploy_the_pods_of_the_version_that_serves_can_restart(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    before = credentials(cluster)
    done = deploy(1, "--minio-endpoint-cluster", "127.0.0.1:9", ingress=kserve.ingress)
    assert done.code == 1 and f"serving meanwhile: {first} 100 %" in done.err.splitlines()[-1]
    after = credentials(cluster)
    for kind in before:
        for name, item in before[kind].items():
            assert {**after[kind][name], "metadata": None} == {**item, "metadata": None}, "nobody else's is changed"
    restart(kserve, cluster, first)
    assert predict(kserve, cluster) == 200
    succeeded(deploy(1, ingress=kserve.ingress))


def test_credentials_go_with_the_last_revision_that_uses_them(deploy, deployed, cluster, kserve):
    if not cluster.api:
        pytest.skip("needs the stub of the API server: a real one has no garbage collector by itself")
    [first] = deployed(0)
    [used] = credentials(cluster)["secrets"]
    assert deploy(1, "--minio-endpoint-cluster", "127.0.0.1:9", ingress=kserve.ingress).code == 1
    assert set(credentials(cluster)["secrets"]) > {used}
    for kind in ("predictor", "transformer"):  # as Knative does with old revisions
        cluster.kubectl("delete", "revision", f"textclustering-{kind}-00002", "-n", cluster.namespace)
    assert set(credentials(cluster)["secrets"]) == set(credentials(cluster)["serviceaccounts"]) == {used}
    restart(kserve, cluster, first)
    assert predict(kserve, cluster) == 200


def test_the_same_credentials_are_not_applied_under_another_name(deploy, deployed, cluster, kserve):
    deployed(0)
    succeeded(deploy(1, ingress=kserve.ingress))
    assert len(credentials(cluster)["secrets"]) == 1


def test_service_pods_get_no_token_of_the_kubernetes_api(deployed, cluster):
    deployed(0)
    [account] = credentials(cluster)["serviceaccounts"].values()
    assert account["automountServiceAccountToken"] is False


# --- Two namespaces ------------------------------------------------------------------------------


@pytest.fixture
def other(cluster):
    """A second namespace in the same cluster."""
    name = f"{cluster.namespace}-other"
    yield SimpleNamespace(namespace=name, kubectl=cluster.kubectl)
    cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def test_deleting_a_service_with_its_files_leaves_those_of_its_namesake_in_another_namespace(
    deploy, cluster, other, kserve, store
):
    elsewhere = ("--namespace", other.namespace)
    used = version(succeeded(deploy(0, ingress=kserve.ingress)))
    succeeded(deploy(0, *elsewhere, ingress=kserve.ingress))
    succeeded(deploy(0, *elsewhere, "--delete", "--delete-artefacts"))
    assert {key.split("/")[0] for key in store.list()} == {cluster.namespace}
    restart(kserve, cluster, used)
    assert predict(kserve, cluster) == 200


def as_an_earlier_release_stored(store, cluster):
    """Move the files to the prefix without a namespace. Returns the keys there."""
    for key in store.list():
        shared = key.removeprefix(f"{cluster.namespace}/")
        store.s3.copy_object(Bucket=store.bucket, Key=shared, CopySource={"Bucket": store.bucket, "Key": key})
        store.s3.delete_object(Bucket=store.bucket, Key=key)
    return store.list()


def test_a_shared_version_of_an_earlier_release_is_kept_while_any_namespace_uses_it(
    deploy, deployed, cluster, other, kserve, store
):
    [used] = deployed(0)
    shared = as_an_earlier_release_stored(store, cluster)
    source = {"internal.serving.kserve.io/storage-initializer-sourceuri": f"s3://{store.bucket}/textclustering/{used}/"}
    revision = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": {"name": "textclustering-predictor-00001", "namespace": other.namespace, "annotations": source},
        "spec": {"containers": [{"image": "sklearnserver"}]},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other.namespace}}
    for manifest in (namespace, revision):
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    done = succeeded(deploy(0, "--delete", "--delete-artefacts"))
    assert f"Kept s3://{store.bucket}/textclustering/{used}/: another service uses it" in done.err
    assert store.list() == shared
    cluster.kubectl("delete", "revisions", "--all", "-n", other.namespace)
    succeeded(deploy(0, "--delete", "--delete-artefacts"))
    assert store.list() == []


def test_a_deploy_copies_the_versions_of_an_earlier_release_to_the_service_s_own_prefix(
    deploy, deployed, cluster, kserve, store
):
    [first] = deployed(0)
    shared = as_an_earlier_release_stored(store, cluster)
    second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    assert set(store.list()) > {*shared, *(f"{cluster.namespace}/{key}" for key in shared)}
    listed = succeeded(deploy(1, "--list")).out
    assert re.search(rf"^{first} +2026-", listed, re.MULTILINE) and re.search(
        rf"^{second} .*100 %", listed, re.MULTILINE
    )


def test_files_are_not_deleted_without_knowing_who_uses_them(deploy, deployed, cluster, store, tmp_path):
    deployed(0)
    files = store.list()
    spy = tmp_path / "bin" / "kubectl"  # a user who may read one namespace only
    spy.parent.mkdir()
    spy.write_text(
        '#!/bin/sh\ncase "$*" in *--all-namespaces*) echo "Error from server (Forbidden): no" >&2; exit 1;; esac\n'
        'PATH=${PATH#*:} exec kubectl "$@"\n'
    )
    spy.chmod(0o755)
    done = deploy(0, "--delete", "--delete-artefacts", PATH=f"{spy.parent}:/usr/local/bin:/usr/bin:/bin")
    assert done.code == 1 and "nothing was deleted" in done.err.splitlines()[-1]
    assert store.list() == files and cluster.get("inferenceservice", "textclustering")


# --- Rollback and repair -------------------------------------------------------------------------


def test_a_rollback_after_a_failed_deploy_returns_to_the_version_before_the_one_that_serves(
    deploy, deployed, cluster, kserve
):
    first, second = deployed(0, 1)
    kserve.failing = {"predictor"}
    assert deploy(2, ingress=kserve.ingress).code == 1
    assert traffic(cluster) == {second: 100}
    kserve.failing = set()
    succeeded(deploy(2, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == traffic(cluster, "predictor") == {first: 100}
    kserve.settle()
    assert traffic(cluster) == {first: 100}, "the controller keeps it"
    again = succeeded(deploy(2, "--rollback", ingress=kserve.ingress))
    assert "Rolled back already" in again.err and traffic(cluster) == {first: 100}
    third = version(succeeded(deploy(2, ingress=kserve.ingress)))
    assert traffic(cluster) == {third: 100}
    succeeded(deploy(2, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {first: 100}


def test_on_a_full_node_the_standby_makes_way_and_a_rollback_starts_it_again(deploy, cluster, tmp_path):
    deploy.constants["deployment.waiting.NO_ROOM_SECONDS"] = 30
    with stub_kserve(cluster, tmp_path, cpus=0.45) as stub:  # room for two versions of two pods of 100m
        stub.ending_seconds = 1
        first = version(succeeded(deploy(0, ingress=stub.ingress)))
        second = version(succeeded(deploy(1, ingress=stub.ingress)))
        done = succeeded(deploy(2, ingress=stub.ingress))
        assert f"request 200m CPU and 1024 MiB and do not fit beside what runs: {first}" in done.err
        assert f"There is no room for the new version: {first}, which gets no requests, makes way" in done.err
        third = version(done)
        assert traffic(cluster) == {third: 100}
        eventually(lambda: sorted(versions_with_pods(stub, cluster)) == sorted([second, third]))
        stub.failing = {"transformer"}
        assert deploy(0, "--min-replicas", "2", ingress=stub.ingress).code == 1
        stub.failing = set()
        succeeded(deploy(0, "--rollback", ingress=stub.ingress))
        assert traffic(cluster) == {second: 100} and predict(stub, cluster) == 200


def versions_with_pods(stub, cluster):
    return {label(pod) for key, pods in stub.pods.items() if key[0] == cluster.namespace for pod in pods if pod.names}


def test_a_deploy_right_after_a_delete_waits_until_the_old_pods_have_ended(deploy, cluster, tmp_path):
    deploy.constants["deployment.waiting.NO_ROOM_SECONDS"] = 30
    with stub_kserve(cluster, tmp_path, cpus=0.45) as stub:
        stub.ending_seconds = 4
        succeeded(deploy(0, ingress=stub.ingress))
        changed = succeeded(deploy(0, "--cpu-limit", "2", ingress=stub.ingress))
        assert "Room: the new pods request 200m CPU and 1024 MiB and fit beside what runs" in changed.err
        assert "Room:" not in succeeded(deploy(0, "--cpu-limit", "2", ingress=stub.ingress)).err, "creates no pods"
        succeeded(deploy(0, "--delete"))
        succeeded(deploy(1, ingress=stub.ingress))


def test_no_room_is_given_longer_than_a_pod_takes_to_end():
    assert waiting.NO_ROOM_SECONDS > 2 * (36 + 70) > 70 > waiting.STUCK_SECONDS


@pytest.mark.parametrize("newer_failed", [False, True])
def test_a_version_that_serves_but_does_not_answer_gets_new_pods(deploy, deployed, cluster, kserve, newer_failed):
    [serving] = deployed(0)
    if newer_failed:
        kserve.failing = {"predictor"}
        assert deploy(1, ingress=kserve.ingress).code == 1
        kserve.failing = set()
    [predictor] = pods_of(kserve, cluster, serving, "predictor")
    predictor.unloaded = True
    assert predict(kserve, cluster) == 503
    done = succeeded(deploy(0, ingress=kserve.ingress))
    assert "Re-creating its pods" in done.err and predict(kserve, cluster) == 200
    assert len(pods_of(kserve, cluster, serving)) == 2, "new pods of the same revisions"
    assert "Re-creating" not in succeeded(deploy(0, ingress=kserve.ingress)).err


def test_a_version_that_answers_incorrectly_gets_new_pods(deploy, deployed, cluster, kserve):
    [kserve_version] = deployed(0)
    [transformer] = pods_of(kserve, cluster, kserve_version, "transformer")
    transformer.numbers = {text: number + 1 for text, number in transformer.numbers.items()}
    done = succeeded(deploy(0, ingress=kserve.ingress))
    assert "incorrect predictions" in done.err and "Re-creating its pods" in done.err


def test_pods_are_not_re_created_because_the_gateway_s_address_is_wrong(deploy, deployed, cluster, kserve):
    [serving] = deployed(0)
    names = [pod.names for pod in pods_of(kserve, cluster, serving)]
    done = deploy(0, ingress="http://127.0.0.1:9", timeout=3)
    assert done.code == 1 and "--ingress" in done.err.splitlines()[-1]
    kserve.settle()
    assert [pod.names for pod in pods_of(kserve, cluster, serving)] == names


def test_only_a_version_that_answers_is_said_to_serve(deploy, deployed, cluster, kserve):
    [serving] = deployed(0)
    [predictor] = pods_of(kserve, cluster, serving, "predictor")
    predictor.unloaded = True
    kserve.failing = {"transformer"}
    last = deploy(1, ingress=kserve.ingress).err.splitlines()[-1]
    assert f"{serving} 100 % gets the requests meanwhile, but does not answer" in last
    assert "serving meanwhile" not in last


def test_list_marks_versions_that_were_never_ready(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    kserve.failing = {"predictor"}
    failed = version(deploy(1, ingress=kserve.ingress))
    listed = succeeded(deploy(1, "--list")).out
    assert re.search(rf"^{first} .* 100 %", listed, re.MULTILINE)
    assert re.search(rf"^{failed} .* never ready", listed, re.MULTILINE)
    kserve.failing = set()
    succeeded(deploy(1, ingress=kserve.ingress))
    assert "never ready" not in succeeded(deploy(1, "--list")).out


def test_a_deployment_does_not_recreate_the_pods_that_it_waited_for(deployed, cluster, kserve):
    [serving] = deployed(0)
    kserve.settle()
    assert [pod.created for pod in pods_of(kserve, cluster, serving)] == [1, 1]


# --- Access --------------------------------------------------------------------------------------


def test_the_predictor_has_no_address_outside_the_cluster(deployed, cluster, kserve):
    deployed(0)
    unload = "/v2/repository/models/textclustering/unload"
    assert predict(kserve, cluster, "textclustering-predictor", unload) == 404
    assert predict(kserve, cluster) == 200


def test_a_collocated_service_keeps_its_address(deploy, cluster, kserve):
    succeeded(deploy(0, "--collocate", ingress=kserve.ingress))
    assert predict(kserve, cluster) == 200


ROLES = {"istio-system": "gateway", "knative-serving": "knative", "monitoring": "prometheus"}


def test_network_policies_let_in_the_gateway_and_prometheus_where_the_platform_labels_them(
    deploy, deployed, cluster, kserve
):
    if not cluster.api:
        pytest.skip("needs a cluster whose namespaces it may label")
    deployed(0)
    assert cluster.list("networkpolicies") == [], "another cluster's gateway may be anywhere"
    for name, role in ROLES.items():
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"mlops-poc/role": role}},
        }
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    succeeded(deploy(0, ingress=kserve.ingress))
    policies = {item["metadata"]["name"]: item["spec"] for item in cluster.list("networkpolicies")}
    assert set(policies) == {"textclustering-transformer", "textclustering-predictor"}
    assert roles_in(policies["textclustering-transformer"]) == {"gateway", "knative", "prometheus"}
    assert roles_in(policies["textclustering-predictor"]) == {"knative", "prometheus"}
    [callers] = [
        source["podSelector"]["matchLabels"]
        for source in policies["textclustering-predictor"]["ingress"][0]["from"]
        if "podSelector" in source
    ]
    assert callers["component"] == "transformer"
    succeeded(deploy(0, "--delete"))
    assert cluster.list("networkpolicies") == []


def roles_in(policy):
    selectors = [
        source["namespaceSelector"] for source in policy["ingress"][0]["from"] if "namespaceSelector" in source
    ]
    return {role for selector in selectors for role in selector["matchExpressions"][0]["values"]}


# --- Two deploys at the same time ------------------------------------------------------------------


def test_of_two_deploys_the_one_that_was_replaced_says_so_at_once(
    deploy, deployed, cluster, kserve, store, training_runs
):
    deployed(0)
    kserve.starting_seconds = 15
    with deploy_process(training_runs[1], cluster, store) as loser:
        lines = []
        while "starting" not in (lines or [""])[-1]:
            lines.append(loser.stderr.readline())
            assert lines[-1], lines
        kserve.starting_seconds = 0
        winner = version(succeeded(deploy(2, ingress=kserve.ingress)))
        lines += loser.stderr.readlines()
        assert loser.wait(30) == 1
    assert f"another deployment replaced this one with version {winner}" in lines[-1], "".join(lines)
    assert traffic(cluster) == {winner: 100}


def test_a_deploy_that_was_replaced_before_its_transformer_was_applied_leaves_the_winner_as_it_is(
    deploy, deployed, cluster, kserve, monkeypatch
):
    deployed(0)
    winners, wait = [], rollout.wait_for_predictor

    def wait_and_lose(*arguments):
        state = wait(*arguments)
        if not winners:
            winners.append(version(succeeded(deploy(2, ingress=kserve.ingress))))
        return state

    monkeypatch.setattr(rollout, "wait_for_predictor", wait_and_lose)
    done = deploy(1, ingress=kserve.ingress, here=True)
    assert (done.code, traffic(cluster)) == (1, {winners[0]: 100}), done.err
    assert f"another deployment replaced this one with version {winners[0]}" in done.err
    predictors = [label(pod) for pod in kserve.pods[cluster.namespace, "textclustering", "predictor"]]
    assert predictors[-1] == pins(cluster, kserve)[winners[0]] == winners[0]
