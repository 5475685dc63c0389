"""What many tests begin with, versions that were deployed: once by the program in each process, then restored.

A deployment takes one to two seconds of CPU, most of it the starts of kubectl.
"""

import contextlib
import json
import uuid

import pytest

from doubles.stub_kubelet import Pod
from support.deployment import succeeded, version

BUCKET = "deployed"  # always the same, because its name is in the signatures of what is deployed


class Snapshot:
    """The objects of the stub API server, the pods of the stub KServe and the files of the store, after deployments."""

    def __init__(self, versions, cluster, kserve, store):
        self.versions = versions
        with kserve.between_rounds, cluster.api.lock:
            self.state = json.dumps(
                {
                    "objects": list(cluster.api.objects.items()),
                    "applied": list(cluster.api.applied.items()),
                    "pods": [(key, [vars(pod) for pod in pods]) for key, pods in kserve.pods.items()],
                    "routed": list(kserve.routed.items()),
                    "placed": list(kserve.placed.items()),
                }
            )
        self.files = f"snapshot-{uuid.uuid4().hex[:8]}"
        copy_files(store.s3, store.bucket, self.files)

    def restore(self, cluster, kserve, store):
        copy_files(store.s3, self.files, store.bucket)
        state = json.loads(self.state)
        with kserve.between_rounds, cluster.api.lock:
            cluster.api.objects = with_tuples(state["objects"])
            cluster.api.applied = with_tuples(state["applied"])
            versions = (int(item["metadata"]["resourceVersion"]) for item in cluster.api.objects.values())
            cluster.api.count += 1 + max(versions)
            kserve.pods = {key: list(map(pod_of, pods)) for key, pods in with_tuples(state["pods"]).items()}
            kserve.routed = {host: tuple(target) for host, target in state["routed"]}
            kserve.placed = with_tuples(state["placed"])


def with_tuples(items):
    """JSON has lists only."""
    return {tuple(key): value for key, value in items}


def copy_files(s3, source, target):
    s3.create_bucket(Bucket=target)
    for item in s3.list_objects_v2(Bucket=source)["Contents"]:
        s3.copy_object(Bucket=target, Key=item["Key"], CopySource={"Bucket": source, "Key": item["Key"]})


def remove(s3, bucket):
    with contextlib.suppress(s3.exceptions.NoSuchBucket):
        for item in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"])
        s3.delete_bucket(Bucket=bucket)


def pod_of(attributes):
    pod = Pod.__new__(Pod)
    vars(pod).update(attributes, idle_since=None)
    return pod


@pytest.fixture(scope="session")
def snapshots():
    return {}


@pytest.fixture
def deployed(deploy, cluster, kserve, store, snapshots):
    """deployed(0, 1): deploy training runs one after the other, each for all requests. Returns their versions."""

    def run(*training_runs):
        known = next((n for n in range(len(training_runs), 0, -1) if training_runs[:n] in snapshots), 0)
        store.bucket = BUCKET
        remove(store.s3, BUCKET)
        versions = []
        if known and cluster.api:
            snapshots[training_runs[:known]].restore(cluster, kserve, store)
            versions = list(snapshots[training_runs[:known]].versions)
        for number in range(len(versions), len(training_runs)):
            versions.append(version(succeeded(deploy(training_runs[number], ingress=kserve.ingress))))
            kserve.settle()
            if cluster.api:
                snapshots[training_runs[: number + 1]] = Snapshot(tuple(versions), cluster, kserve, store)
        return versions

    return run
