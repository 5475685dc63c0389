"""Restrict who may open connections to a service's pods, on clusters that are prepared for it."""

import json
import logging

from deployment.kubectl import Kubectl, KubectlFailed
from deployment.manifests import ROLE_LABEL, ServiceSettings, network_policies

ROLES = {"gateway", "knative", "prometheus"}

log = logging.getLogger(__name__)


def isolate(kubectl: Kubectl, settings: ServiceSettings) -> None:
    """Apply the service's NetworkPolicies if the namespaces that they let in have their labels.

    Provisioning labels the namespaces of the platform. On another cluster, where the gateway or Prometheus may be
    anywhere, the policies would cut the service off.
    """
    if is_prepared(kubectl):
        kubectl.apply(*network_policies(settings))


def is_prepared(kubectl: Kubectl) -> bool:
    """Whether the namespaces that NetworkPolicies let in have their labels."""
    try:
        found = json.loads(kubectl.run("get", "namespaces", f"--selector={ROLE_LABEL}", "-o", "json"))["items"]
    except KubectlFailed as error:
        log.debug("No NetworkPolicies: %s", error)
        return False
    roles = {namespace["metadata"]["labels"][ROLE_LABEL] for namespace in found}
    if not roles >= ROLES:
        log.debug("No NetworkPolicies: no namespace has the label %s for %s", ROLE_LABEL, ", ".join(ROLES - roles))
    return roles >= ROLES
