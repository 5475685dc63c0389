"""Whether a new version fits on the nodes: the arithmetic of requests."""

import pytest

from deployment.arguments import parse_arguments, service_settings
from deployment.room import Room, fit, free_rooms, is_schedulable, new_pods, quantity, requested_by

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
