"""One inference service in a cluster: what it shows at one moment, and the changes that it takes."""

import base64
import json
import logging
from typing import NamedTuple

from deployment.kubectl import KNATIVE_KINDS, KSERVE_KIND
from deployment.manifests import COMPONENTS, SERVICE_LABEL, VERSION_LABEL, authority_name, standby_name, standby_route

log = logging.getLogger(__name__)


class ServiceState(NamedTuple):
    """What the cluster shows of the service at one moment."""

    service: dict | None
    revisions: dict  # Knative's, by name
    routes: dict  # Knative's, by name
    pods: list

    @property
    def status(self):
        return (self.service or {}).get("status", {})

    @property
    def spec(self):
        return (self.service or {}).get("spec", {})

    @property
    def on_knative(self):
        return self.status.get("deploymentMode") in ("Knative", "Serverless")

    @property
    def components(self):
        return [name for name in COMPONENTS if name in self.spec]

    @property
    def front(self):
        """The component that answers the clients."""
        return "predictor" if self.is_collocated else "transformer"

    @property
    def is_collocated(self):
        """Whether the transformer is in the predictor's pod."""
        return "containers" in self.spec.get("predictor", {})

    @property
    def canary(self):
        """Share of the newest version in percent: None when it gets everything, 0 when it waits or was rolled back."""
        return self.spec.get(self.front, {}).get("canaryTrafficPercent")

    def component(self, name):
        return self.status.get("components", {}).get(name, {})

    def condition(self, kind):
        return condition_of(self.service, kind)

    def shares(self, component):
        """Share of a component's requests by revision, in percent."""
        shares = {}
        for target in self.component(component).get("traffic", []):
            revision = target.get("revisionName")
            shares[revision] = shares.get(revision, 0) + target.get("percent", 0)
        return {revision: share for revision, share in shares.items() if share}

    def serving(self, beside_newest=False):
        """Names of the revisions that get most of the requests, maybe beside the newest; that of the front first."""
        found = []
        for name in reversed(self.components):
            shares = self.shares(name)
            if beside_newest:
                shares.pop(self.newest(name), None)
            if shares:
                found.append(max(shares, key=shares.get))
        return found

    def newest(self, component=None):
        """Name of the newest revision."""
        return self.component(component or self.front).get("latestCreatedRevision")

    def traffic(self):
        """Share of the requests by version, in percent."""
        if self.front not in self.spec:
            return {}
        if not self.on_knative:
            return {self.spec[self.front].get("labels", {}).get(VERSION_LABEL, "?"): 100}
        shares = {}
        for revision, share in self.shares(self.front).items():
            labels = self.revisions.get(revision, {"metadata": {}})["metadata"].get("labels", {})
            version = labels.get(VERSION_LABEL, "?")
            shares[version] = shares.get(version, 0) + share
        return shares

    def standby(self):
        """(status, revision names) of the Route to the version that stands by; ({}, []) without one."""
        route = self.routes.get(standby_name(self.service["metadata"]["name"]), {}) if self.service else {}
        return route.get("status", {}), [target["revisionName"] for target in route.get("spec", {}).get("traffic", [])]


def condition_of(item, kind):
    """A condition of an object's status; of status Unknown where it has none."""
    conditions = (item or {}).get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == kind), {"type": kind, "status": "Unknown"})


def in_words(shares):
    return ", ".join(f"{version} {share} %" for version, share in shares.items())


class DeployedService:
    """The service `name` in kubectl's namespace. Raises Failure unless the cluster answers and has KServe."""

    def __init__(self, kubectl, name):
        self.kubectl, self.name = kubectl, name
        known = kubectl.kinds()
        self.kinds = [kind for kind in (KSERVE_KIND, *KNATIVE_KINDS, "pods") if kind in (*known, "pods")]

    def fetch(self):
        """A ServiceState: one call, so that its parts fit together."""
        found = {"InferenceService": {}, "Revision": {}, "Route": {}, "Pod": {}}
        for item in self.kubectl.get(",".join(self.kinds))["items"]:
            if self.name in (item["metadata"]["name"], item["metadata"].get("labels", {}).get(SERVICE_LABEL)):
                found[item["kind"]][item["metadata"]["name"]] = item
        return ServiceState(
            found["InferenceService"].get(self.name), found["Revision"], found["Route"], list(found["Pod"].values())
        )

    def keys(self):
        """(access key, secret key) that it reads the store with, or None."""
        data = (self.kubectl.get("secret", self.name) or {}).get("data", {})
        keys = [
            base64.b64decode(data.get(name, "")).decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]
        return tuple(keys) if all(keys) else None

    def set_canary(self, percent, components):
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

    def set_standby(self, service, revisions):
        """Let a version stand by: its pods stay, and it answers at the host of its own Route."""
        self.kubectl.apply(standby_route(service, revisions))

    def annotate_revisions(self, names, annotations):
        self.kubectl.run(
            "annotate",
            "revisions.serving.knative.dev",
            *names,
            "-n",
            self.kubectl.namespace,
            "--overwrite",
            *(f"{name}={value}" for name, value in annotations.items()),
        )

    def delete(self):
        for kind, name in (
            (KSERVE_KIND, self.name),
            ("serviceaccount", self.name),
            ("secret", self.name),
            ("configmap", authority_name(self.name)),
        ):
            done = self.kubectl.run("delete", kind, name, "-n", self.kubectl.namespace, "--ignore-not-found").strip()
            if done or kind != "configmap":  # only stores with an authority of their own need it
                log.info("kubectl: %s", done or f"no {kind.partition('s.')[0]} {name}")
