"""Whether a new version fits on the nodes: the arithmetic of requests."""

import logging

import pytest

from deployment.arguments import parse_arguments, service_settings
from deployment.deployed_service import ServiceState
from deployment.inventory import Inventory
from deployment.manifests import Content, inference_service
from deployment.room import Room, fit, free_rooms, is_schedulable, log_room, new_pods, quantity, requested_by
from deployment.scaling import idle_revisions

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100m", 0.1),
        ("2", 2),
        ("1.5", 1.5),
        ("512Mi", 512 * 2**20),
        ("1Gi", GIB),
        ("1e3", 1000),
        ("128974848", 128974848),
    ],
)
def test_a_quantity_is_read_as_kubernetes_does(text, number):
    assert quantity(text) == pytest.approx(number)


def settings(*flags):
    return service_settings(parse_arguments(["--transformer-image", "i", "--dry-run", *flags]))


def test_a_version_requests_more_than_its_containers_because_of_the_storage_initializer():
    assert new_pods(settings()) == [Room(0.1, 512 * 2**20)] * 2
    assert new_pods(settings("--cpu-request", "200m")) == [Room(pytest.approx(0.225), 512 * 2**20)] * 2
    assert new_pods(settings("--collocate")) == [Room(pytest.approx(0.125), GIB)]
    assert len(new_pods(settings("--min-replicas", "2"))) == 4


def pod(node, containers, init=(), phase="Running"):
    def of(requests):
        return [{"resources": {"requests": item}} for item in requests]

    return {
        "spec": {"nodeName": node, "containers": of(containers), "initContainers": of(init)},
        "status": {"phase": phase},
    }


def test_a_pod_requests_its_containers_together_or_its_largest_init_container():
    small = {"cpu": "50m", "memory": "1Gi"}
    assert requested_by(pod("a", [small, {"cpu": "25m"}], [{"cpu": "100m", "memory": "100Mi"}])) == Room(0.1, GIB)
    assert requested_by(pod("a", [small, small], [{"cpu": "10m"}])) == Room(0.1, 2 * GIB)
    assert requested_by({"spec": {"containers": [{}]}}) == Room(0, 0)


def node(name, cpu, **spec):
    return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi"}}}


def test_only_pods_that_run_on_a_node_use_its_room():
    pods = [pod("a", [{"cpu": "1"}]), pod("a", [{"cpu": "1"}], phase="Succeeded"), pod(None, [{"cpu": "1"}])]
    assert free_rooms([node("a", "2"), node("b", "1")], pods) == [Room(1, 8 * GIB), Room(1, 8 * GIB)]


def test_pods_may_fit_only_on_different_nodes():
    two = [Room(0.6, 1), Room(0.6, 1)]
    assert fit(two, [Room(0.7, 9), Room(0.7, 9)]) and not fit(two, [Room(1.1, 9)]) and not fit(two, [])
    assert not fit([Room(0.1, 9)], [Room(1, 8)]), "memory counts as well"


def test_reserved_nodes_do_not_count():
    assert is_schedulable(node("a", "1")) and not is_schedulable(node("a", "1", unschedulable=True))
    assert not is_schedulable(node("a", "1", taints=[{"key": "gpu", "effect": "NoSchedule"}]))
    assert is_schedulable(node("a", "1", taints=[{"key": "gpu", "effect": "PreferNoSchedule"}]))


SERVING, IDLE, NEW = "serving", "idle", "new"


def own_pod(revision, ending=False):
    """A pod of the service that requests 100m."""
    metadata = {"uid": f"{revision} {ending}", "annotations": {"mlops-poc/spec-sha256": "another"}}
    metadata["labels"] = {"serving.knative.dev/revision": revision}
    if ending:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, **pod("a", [{"cpu": "100m"}])}


def room_line(caplog, cpus, pods):
    """The line about a deployment of two new pods of 100m, on one node."""
    service = inference_service(settings(), Content("v1", "credentials"))
    for running in pods:
        if running["metadata"]["labels"]["serving.knative.dev/revision"] == NEW:
            running["metadata"]["annotations"] = service["spec"]["predictor"]["annotations"]
    status = {"components": {"transformer": {"traffic": [{"revisionName": SERVING, "percent": 100}]}}}
    revisions = {name: {"metadata": {"labels": {"app.kubernetes.io/version": f"v-{name}"}}} for name in (SERVING, IDLE)}
    state = ServiceState({"spec": {"predictor": {}, "transformer": {}}, "status": status}, revisions, {}, pods)
    caplog.set_level(logging.INFO)
    caplog.clear()
    log_room(Inventory([node("a", cpus)], None, pods), state, settings(), service)
    return " ".join(caplog.messages)


def test_the_line_about_room_counts_the_pods_to_create_and_neither_ending_nor_idle_ones_as_lasting(caplog):
    serving, idle, ending = own_pod(SERVING), own_pod(IDLE), own_pod(IDLE, ending=True)
    assert "request 200m CPU and 1024 MiB and fit beside what runs" in room_line(caplog, "300m", [serving])
    assert "fit once pods that are ending have ended" in room_line(caplog, "300m", [serving, ending])
    assert "v-idle, which gets no requests, will make way" in room_line(caplog, "300m", [serving, idle])
    assert "left on the nodes: 100m CPU" in room_line(caplog, "200m", [serving, ending]), "it does not make way twice"


def test_pods_that_an_earlier_attempt_created_are_not_created_again(caplog):
    assert "request 100m CPU" in room_line(caplog, "300m", [own_pod(SERVING), own_pod(NEW)])
    assert room_line(caplog, "300m", [own_pod(SERVING), own_pod(NEW), own_pod(NEW)]) == ""
    assert "request 200m CPU" in room_line(caplog, "300m", [own_pod(SERVING), own_pod(NEW, ending=True)])


def test_what_was_created_since_kserve_s_last_status_does_not_make_way_although_an_earlier_attempt_is_the_same():
    spec = {"transformer": inference_service(settings(), Content("v1", "credentials"))["spec"]["transformer"]}
    attempts = [f"textclustering-transformer-0000{number}" for number in (2, 3, 4)]
    pods = [own_pod(name) for name in attempts]
    for pod in pods[1:]:
        pod["metadata"]["annotations"] = spec["transformer"]["annotations"]
    status = {"deploymentMode": "Knative", "components": {"transformer": {"latestCreatedRevision": attempts[1]}}}
    state = ServiceState({"spec": spec, "status": status}, {name: {"metadata": {}} for name in attempts}, {}, pods)
    assert idle_revisions(state, spec) == [attempts[0]]
    status["components"]["transformer"]["latestCreatedRevision"] = attempts[2]
    assert idle_revisions(state, spec) == attempts[:2]
