"""retrain.py --schedule: what it creates, what that may do, and that nothing is left of it."""

import base64
import json

import pytest
import yaml

from deployment.manifests import ROLE_LABEL
from support.deployment import succeeded
from support.retraining import run_retrain, service_options

SCHEDULE = ("--schedule", "*/15 * * * *", "--image", "docker.io/mlops-poc/retraining:test")
DATASET = ("--dataset", "s3://textclustering-requests/")
KINDS = ("cronjobs", "roles", "rolebindings", "serviceaccounts", "secrets", "networkpolicies", "priorityclasses")


@pytest.fixture
def dry_run(monkeypatch):
    """The objects that a dry run prints, by kind."""
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)

    def run(*options):
        done = run_retrain(*DATASET, *SCHEDULE, "--dry-run", *options)
        assert done.code == 0, done.err
        return {each["kind"]: each for each in yaml.safe_load_all(done.out)}

    return run


def test_the_job_runs_alone_with_the_same_options_and_the_addresses_inside_the_cluster(dry_run):
    objects = dry_run("--when", "30d", "--min-new=100", "--context", "here", "--ingress", "http://localhost:1")
    spec = objects["CronJob"]["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("*/15 * * * *", "Forbid")
    assert spec["startingDeadlineSeconds"] and spec["successfulJobsHistoryLimit"] and spec["failedJobsHistoryLimit"]
    job = spec["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0 and job["activeDeadlineSeconds"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"][:5] == [*DATASET, "--when", "30d", "--min-new=100"] and "here" not in container["args"]
    assert container["args"][-4:] == [
        "--minio-endpoint=http://minio-service.tenant-tiny:9000",
        "--ingress=http://istio-ingressgateway.istio-system",
        "--prometheus=http://prometheus.monitoring:9090",
        "--s3-endpoint=http://minio-service.tenant-tiny:9000",
    ]
    priority = objects["PriorityClass"]
    assert pod["priorityClassName"] == priority["metadata"]["name"] and priority["value"] < 0
    assert container["resources"]["requests"] and container["resources"]["limits"]


def test_the_pod_is_within_the_restricted_level_of_pod_security(dry_run):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod = dry_run()["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    context, [container] = pod["securityContext"], pod["containers"]
    assert context["runAsNonRoot"] and context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert (
        container["securityContext"]["readOnlyRootFilesystem"] and container["volumeMounts"][0]["mountPath"] == "/tmp"
    )
    assert {kind for volume in pod["volumes"] for kind in volume} <= {"name", "emptyDir", "configMap"}


def test_the_role_changes_one_service_and_nothing_outside_the_namespace(dry_run):
    objects = dry_run("--model-name", "mine", "--namespace", "here")
    assert not {"ClusterRole", "ClusterRoleBinding"} & objects.keys()
    rules = objects["Role"]["rules"]
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if rule["apiGroups"] == ["serving.kserve.io"] and rule["verbs"] != ["list"]:
            assert rule["resourceNames"] == ["mine"] and rule["verbs"] == ["get", "patch"]
    assert not [rule for rule in rules if "delete" in rule["verbs"] and rule["resources"] != ["leases"]]
    assert {each["metadata"]["namespace"] for each in objects.values() if each["kind"] != "PriorityClass"} == {"here"}


def test_the_keys_are_in_a_secret_only_and_everything_is_removed_again(deploy, cluster, kserve, store, monkeypatch):
    private = ("--image-pull-secret", "registry")
    succeeded(deploy(0, *private, ingress=kserve.ingress))
    before = set(cluster.api.objects)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.keys[1])
    options = service_options(cluster, store, kserve.ingress)
    done = succeeded(run_retrain(*DATASET, *SCHEDULE, *options))
    assert store.keys[1] not in done.err + done.out

    owner = cluster.get("inferenceservice", "textclustering")["metadata"]["uid"]
    created = {key: each for key, each in cluster.api.objects.items() if key not in before}
    assert {key[0] for key in created} == set(KINDS) - {"networkpolicies"}, "no label tells where the gateway is"
    for (kind, _, _), each in created.items():
        encoded = json.dumps(each)
        assert store.keys[1] not in encoded
        if kind == "secrets":
            assert base64.b64decode(each["data"]["AWS_SECRET_ACCESS_KEY"]).decode() == store.keys[1]
        if kind != "priorityclasses":
            assert [reference["uid"] for reference in each["metadata"]["ownerReferences"]] == [owner]
    assert created["serviceaccounts", cluster.namespace, "textclustering-retraining"]["imagePullSecrets"] == [
        {"name": "registry"}
    ], "the image may be in the same registry"
    assert succeeded(deploy(0, *private, ingress=kserve.ingress)), "its Secret is not taken for one of the service's"

    for role in ("gateway", "knative", "prometheus"):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": role, "labels": {ROLE_LABEL: role}}}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(namespace))
    succeeded(run_retrain(*DATASET, *SCHEDULE, *options))
    [policy] = [each for key, each in cluster.api.objects.items() if key[0] == "networkpolicies"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in policy["spec"]
    succeeded(run_retrain("--unschedule", *options))
    left = {key for key in cluster.api.objects if key[0] != "namespaces"}
    assert left == {key for key in before if key[0] != "namespaces"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*DATASET, "--schedule", "daily"), "is not a schedule of five fields"),
        ((*DATASET, "--schedule", "0 3 * * *"), "--schedule requires --image"),
        (("--dataset", "old.jsonl", *SCHEDULE), "the pod cannot read old.jsonl: upload it to the store"),
        ((*DATASET, "--dry-run"), "--dry-run requires --schedule"),
        ((), "--dataset is required"),
        ((*DATASET, "--when", "soon"), "neither drifted, nor now, nor an age such as 30d"),
        ((*DATASET, "--min-kept", "80"), "is not a number from 0 to 1"),
    ],
)
def test_options_that_cannot_work_are_named(options, message):
    done = run_retrain(*options)
    assert done.code == 2 and message in done.err.splitlines()[-1]
