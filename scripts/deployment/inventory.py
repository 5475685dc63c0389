"""What the cluster has, as far as this user may read it."""

import json
import logging
from typing import NamedTuple

from deployment.kubectl import Kubectl, KubectlFailed
from deployment.manifests import KubernetesObject

log = logging.getLogger(__name__)


class Inventory(NamedTuple):
    """Objects of the whole cluster; None where this user may not read them."""

    nodes: list[KubernetesObject] | None
    namespaces: list[KubernetesObject] | None
    pods: list[KubernetesObject] | None


def take_inventory(kubectl: Kubectl) -> Inventory:
    """Read everything with a single start of kubectl."""
    complete = True
    try:
        items = kubectl.get_all("nodes", "namespaces", "pods")
    except KubectlFailed as error:
        log.debug("Not everything in the cluster can be read: %s", error)
        items = json.loads(error.stdout or '{"items": []}')["items"]
        complete = False

    def of_kind(kind: str) -> list[KubernetesObject] | None:
        found = [item for item in items if item["kind"] == kind]
        return found if found or complete else None

    return Inventory(of_kind("Node"), of_kind("Namespace"), of_kind("Pod"))
