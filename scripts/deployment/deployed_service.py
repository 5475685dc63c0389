"""One InferenceService in a cluster: a snapshot of its state, and patches to it."""

import base64
import json
import logging
from typing import Any, NamedTuple

from deployment.kubectl import KNATIVE_KINDS, KSERVE_KIND, Kubectl
from deployment.manifests import (
    COMPONENTS,
    SERVICE_LABEL,
    VERSION_LABEL,
    KubernetesObject,
    ca_name,
    standby_name,
    standby_route,
)

log = logging.getLogger(__name__)


class ServiceState(NamedTuple):
    """A snapshot of the service and of what belongs to it."""

    service: KubernetesObject | None
    revisions: dict[str, KubernetesObject]  # Knative's, by name
    routes: dict[str, KubernetesObject]  # Knative's, by name
    pods: list[KubernetesObject]

    @property
    def status(self) -> KubernetesObject:
        return (self.service or {}).get("status", {})

    @property
    def spec(self) -> KubernetesObject:
        return (self.service or {}).get("spec", {})

    @property
    def on_knative(self) -> bool:
        return self.status.get("deploymentMode") in ("Knative", "Serverless")

    @property
    def components(self) -> list[str]:
        return [name for name in COMPONENTS if name in self.spec]

    @property
    def entry(self) -> str:
        """The component that receives the clients' requests."""
        return "predictor" if self.is_collocated else "transformer"

    @property
    def is_collocated(self) -> bool:
        """Whether predictor and transformer share a pod."""
        return "containers" in self.spec.get("predictor", {})

    @property
    def canary_percent(self) -> int | None:
        """Share of the newest version: None when it gets all requests, 0 when it is on hold or was rolled back."""
        return self.spec.get(self.entry, {}).get("canaryTrafficPercent")

    def component(self, name: str) -> KubernetesObject:
        return self.status.get("components", {}).get(name, {})

    def condition(self, kind: str) -> KubernetesObject:
        return condition_of(self.service, kind)

    def shares(self, component: str) -> dict[str, int]:
        """Share of a component's requests by revision, in percent."""
        shares: dict[str, int] = {}
        for target in self.component(component).get("traffic", []):
            revision = target.get("revisionName")
            shares[revision] = shares.get(revision, 0) + target.get("percent", 0)
        return {revision: share for revision, share in shares.items() if share}

    def serving(self, except_newest: bool = False) -> list[str]:
        """The revision of each component with the largest share of the requests, that of the entry first."""
        found = []
        for name in reversed(self.components):
            shares = self.shares(name)
            if except_newest:
                shares.pop(self.newest(name), None)
            if shares:
                found.append(max(shares, key=lambda revision: shares[revision]))
        return found

    def newest(self, component: str | None = None) -> str:
        """Name of a component's newest revision, by default of the entry's; empty if there is none."""
        return self.component(component or self.entry).get("latestCreatedRevision", "")

    def traffic(self) -> dict[str, int]:
        """Share of the requests by version, in percent."""
        if self.entry not in self.spec:
            return {}
        if not self.on_knative:
            return {self.spec[self.entry].get("labels", {}).get(VERSION_LABEL, "?"): 100}
        shares: dict[str, int] = {}
        for revision, share in self.shares(self.entry).items():
            labels = self.revisions.get(revision, {"metadata": {}})["metadata"].get("labels", {})
            version = labels.get(VERSION_LABEL, "?")
            shares[version] = shares.get(version, 0) + share
        return shares

    @property
    def host(self) -> str:
        """The host name that the ingress gateway routes to the service."""
        return self.status["url"].split("://")[1]

    @property
    def standby_status(self) -> KubernetesObject:
        """Status of the Route to the standby version; {} if there is none."""
        return self._standby_route.get("status", {})

    @property
    def standby_revisions(self) -> list[str]:
        """Names of the revisions of the standby version, that of the entry first."""
        return [target["revisionName"] for target in self._standby_route.get("spec", {}).get("traffic", [])]

    @property
    def _standby_route(self) -> KubernetesObject:
        return self.routes.get(standby_name(self.service["metadata"]["name"]), {}) if self.service else {}


def condition_of(item: KubernetesObject | None, kind: str) -> KubernetesObject:
    """A condition of an object's status; of status Unknown if the object does not have it."""
    conditions = (item or {}).get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {"type": kind, "status": "Unknown"})


def describe_traffic(shares: dict[str, int]) -> str:
    return ", ".join(f"{version} {share} %" for version, share in shares.items())


class DeployedService:
    """The service `name` in kubectl's namespace. Raises Failure unless the cluster answers and has KServe."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        known = kubectl.kinds()
        self.kinds = [kind for kind in (KSERVE_KIND, *KNATIVE_KINDS, "pods") if kind in (*known, "pods")]

    def fetch(self) -> ServiceState:
        """Read the state with a single call, so that its parts are consistent."""
        found: dict[str, dict[str, Any]] = {"InferenceService": {}, "Revision": {}, "Route": {}, "Pod": {}}
        for item in (self.kubectl.get(",".join(self.kinds)) or {"items": []})["items"]:
            if self.name in (item["metadata"]["name"], item["metadata"].get("labels", {}).get(SERVICE_LABEL)):
                found[item["kind"]][item["metadata"]["name"]] = item
        return ServiceState(
            found["InferenceService"].get(self.name), found["Revision"], found["Route"], list(found["Pod"].values())
        )

    def keys(self) -> tuple[str, str] | None:
        """(access key, secret key) that it reads the store with, or None."""
        data = (self.kubectl.get("secret", self.name) or {}).get("data", {})
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        access_key, secret_key = (base64.b64decode(data.get(name, "")).decode() for name in names)
        return (access_key, secret_key) if access_key and secret_key else None

    def set_canary(self, percent: int | None, components: list[str]) -> None:
        """Give the newest revisions this share of the requests, or all with None."""
        patch = {"spec": {name: {"canaryTrafficPercent": percent} for name in components}}
        self.kubectl.run(
            "patch",
            "inferenceservice",
            self.name,
            "-n",
            self.kubectl.namespace,
            "--type=merge",
            "--field-manager=deploy-service",
            f"--patch={json.dumps(patch)}",
        )

    def set_standby(self, service: KubernetesObject, revisions: list[str]) -> None:
        """Make a version the standby: it keeps its pods, and answers at the host of a Route of its own."""
        self.kubectl.apply(standby_route(service, revisions))

    def annotate_revisions(self, names: list[str], annotations: dict[str, str]) -> None:
        self.kubectl.run(
            "annotate",
            "revisions.serving.knative.dev",
            *names,
            "-n",
            self.kubectl.namespace,
            "--overwrite",
            *(f"{name}={value}" for name, value in annotations.items()),
        )

    def delete(self) -> None:
        for kind, name in (
            (KSERVE_KIND, self.name),
            ("serviceaccount", self.name),
            ("secret", self.name),
            ("configmap", ca_name(self.name)),
        ):
            output = self.kubectl.run("delete", kind, name, "-n", self.kubectl.namespace, "--ignore-not-found").strip()
            if output or kind != "configmap":  # only stores with a custom CA have one
                log.info("kubectl: %s", output or f"no {kind.partition('s.')[0]} {name}")
