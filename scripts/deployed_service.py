"""One inference service in a cluster: what it shows at one moment, and the changes that it takes."""

import base64
import json
import logging
from typing import NamedTuple

from manifests import COMPONENTS, VERSION_LABEL

KINDS = ("inferenceservices.serving.kserve.io", "revisions.serving.knative.dev", "pods")
SERVICE_LABEL = "serving.kserve.io/inferenceservice"

log = logging.getLogger(__name__)


class View(NamedTuple):
    """What the cluster shows of the service at one moment."""

    service: dict | None
    revisions: dict  # Knative's, by name
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
    def canary(self):
        """Share of the newest version in percent: None when it gets everything, 0 after a rollback."""
        return self.spec.get("transformer", {}).get("canaryTrafficPercent")

    def component(self, name):
        return self.status.get("components", {}).get(name, {})

    def condition(self, kind):
        return next(
            (found for found in self.status.get("conditions", []) if found["type"] == kind),
            {"type": kind, "status": "Unknown"},
        )

    def traffic(self):
        """Share of the requests by version, in percent."""
        if "transformer" not in self.spec:
            return {}
        if not self.on_knative:
            return {self.spec["transformer"].get("labels", {}).get(VERSION_LABEL, "?"): 100}
        shares = {}
        for target in self.component("transformer").get("traffic", []):
            labels = self.revisions.get(target.get("revisionName"), {"metadata": {}})["metadata"].get("labels", {})
            version = labels.get(VERSION_LABEL, "?")
            shares[version] = shares.get(version, 0) + target.get("percent", 0)
        return {version: share for version, share in shares.items() if share}


def in_words(shares):
    return ", ".join(f"{version} {share} %" for version, share in shares.items())


class DeployedService:
    """The service `name` in kubectl's namespace. Raises Failure unless the cluster answers and has KServe."""

    def __init__(self, kubectl, name):
        self.kubectl, self.name = kubectl, name
        known = kubectl.kinds()
        self.kinds = [kind for kind in KINDS if kind in known]

    def look(self):
        """A View: one call, so that its parts fit together."""
        found = {"InferenceService": {}, "Revision": {}, "Pod": {}}
        for item in self.kubectl.get(",".join(self.kinds))["items"]:
            if self.name in (item["metadata"]["name"], item["metadata"].get("labels", {}).get(SERVICE_LABEL)):
                found[item["kind"]][item["metadata"]["name"]] = item
        return View(found["InferenceService"].get(self.name), found["Revision"], list(found["Pod"].values()))

    def keys(self):
        """(access key, secret key) that it reads the store with, or None."""
        data = (self.kubectl.get("secret", self.name) or {}).get("data", {})
        keys = [
            base64.b64decode(data.get(name, "")).decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]
        return tuple(keys) if all(keys) else None

    def set_canary(self, percent):
        """Give the newest revisions this share of the requests, or all with None."""
        patch = {"spec": {name: {"canaryTrafficPercent": percent} for name in COMPONENTS}}
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

    def delete(self):
        for kind in ("inferenceservice", "serviceaccount", "secret"):
            done = self.kubectl.run("delete", kind, self.name, "-n", self.kubectl.namespace, "--ignore-not-found")
            log.info("kubectl: %s", done.strip() or f"no {kind} {self.name}")
