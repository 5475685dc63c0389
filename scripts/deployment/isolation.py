"""Restrict who may open connections to a service's pods, on clusters that are prepared for it."""

import logging

from deployment.inventory import Inventory
from deployment.manifests import ROLE_LABEL, KubernetesObject, ServiceSettings, network_policies

ROLES = {"gateway", "knative", "prometheus"}

log = logging.getLogger(__name__)


def isolation(settings: ServiceSettings, inventory: Inventory) -> list[KubernetesObject]:
    """The service's NetworkPolicies if the namespaces that they let in have their labels.

    Provisioning labels the namespaces of the platform. On another cluster, where the gateway or Prometheus may be
    anywhere, the policies would cut the service off.
    """
    return network_policies(settings) if is_prepared(inventory) else []


def is_prepared(inventory: Inventory) -> bool:
    """Whether the namespaces that NetworkPolicies let in have their labels."""
    roles = {namespace["metadata"].get("labels", {}).get(ROLE_LABEL) for namespace in inventory.namespaces or []}
    if not roles >= ROLES:
        log.debug("No NetworkPolicies: no namespace has the label %s for %s", ROLE_LABEL, ", ".join(ROLES - roles))
    return roles >= ROLES
