"""One InferenceService in a cluster: a snapshot of its state, and patches to it."""

import base64
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deployment.kubectl import KSERVE_KIND, REVISION_KIND, ROUTE_KIND, Kubectl, KubectlFailed
from deployment.manifests import (
    COMPONENTS,
    READER_KEYS,
    READY_ANNOTATION,
    SERVICE_LABEL,
    SPEC_ANNOTATION,
    VERSION_LABEL,
    KubernetesObject,
    annotation,
    owner_reference,
    signature,
    standby_name,
    standby_route,
)
from failure import Failure

NETWORK_POLICY_KIND = "networkpolicies.v1.networking.k8s.io"
CREDENTIAL_KINDS = ("secret", "serviceaccount", "configmap")

log = logging.getLogger(__name__)


class Replaced(Failure):
    """Somebody else applied another version, or deleted the service, during a deployment."""


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

    def used_revisions(self) -> set[str]:
        """The revisions that get requests: those with a share, and the predictors that their transformers call."""
        used = {revision for name in self.components for revision in self.shares(name) if self.shares(self.entry)}
        return used | {pinned for revision in used if (pinned := self.predictor_of(revision))}

    def predictor_of(self, revision: str) -> str | None:
        """The predictor revision that a transformer's revision calls; None for other revisions."""
        containers = self.revisions.get(revision, {}).get("spec", {}).get("containers", [{}])
        args = containers[0].get("args") or []
        return args[args.index("--predictor_host") + 1].split(".")[0] if "--predictor_host" in args[:-1] else None

    def pair_of(self, revision: str) -> list[str]:
        """A revision of the entry, and the predictor revision that belongs to it."""
        return [revision, *filter(None, [self.predictor_of(revision)])]

    def newest(self, component: str | None = None) -> str:
        """Name of a component's newest revision, by default of the entry's; empty if there is none."""
        return self.component(component or self.entry).get("latestCreatedRevision", "")

    def is_newer_than_status(self, revision: str) -> bool:
        """Whether KServe's status, which follows a second later, does not know a revision yet.

        Knative numbers the revisions of a component: NAME-transformer-00001.
        """
        known = [self.newest(name) for name in self.components]
        return any(revision > newest and revision[:-5] == newest[:-5] for newest in known)

    def traffic(self) -> dict[str, int]:
        """Share of the requests by version, in percent."""
        if self.entry not in self.spec:
            return {}
        if not self.on_knative:
            return {self.spec[self.entry].get("labels", {}).get(VERSION_LABEL, "?"): 100}
        shares: dict[str, int] = {}
        for revision, share in self.shares(self.entry).items():
            version = self.version_of(revision)
            shares[version] = shares.get(version, 0) + share
        return shares

    def version_of(self, revision: str) -> str:
        """The version that a revision belongs to."""
        labels = self.revisions.get(revision, {"metadata": {}})["metadata"].get("labels", {})
        return labels.get(VERSION_LABEL, "?")

    def versions(self) -> set[str]:
        """The versions that the service has revisions of."""
        return {self.version_of(revision) for revision in self.revisions} - {"?"}

    def never_ready(self) -> set[str]:
        """The versions of which a component has never been ready."""
        ready: dict[tuple[str, str], bool] = {}
        for name, revision in self.revisions.items():
            part = (self.version_of(name), revision["metadata"].get("labels", {}).get("component", ""))
            was_ready = annotation(revision, READY_ANNOTATION) or condition_of(revision, "Ready")["status"] != "False"
            ready[part] = ready.get(part, False) or bool(was_ready)
        return {version for (version, _), once in ready.items() if not once}

    def check_not_replaced(self, spec: KubernetesObject) -> None:
        """Raises Replaced unless the InferenceService still has this spec."""
        if self.service is None:
            raise Replaced("the service was deleted during this deployment: nothing is left of it")
        name = next(iter(spec))
        if signature(self.spec.get(name)) != signature(spec[name]):
            version = self.spec.get(name, {}).get("labels", {}).get(VERSION_LABEL, "?")
            raise Replaced(
                f"another deployment replaced this one with version {version}: this one gets no requests. To see "
                "which version serves: deploy_service.py --list"
            )

    @property
    def host(self) -> str:
        """The host name that the ingress gateway routes to the service; empty before it does."""
        return self.status.get("url", "").rpartition("://")[2]

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
    """The service `name` in kubectl's namespace."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        self.kinds = [KSERVE_KIND, REVISION_KIND, ROUTE_KIND, "pods"]

    def fetch(self) -> ServiceState:
        """Read the state with a single call, so that its parts are consistent.

        Raises:
            Failure: the cluster does not answer, or has no KServe.
        """
        found: dict[str, dict[str, Any]] = {"InferenceService": {}, "Revision": {}, "Route": {}, "Pod": {}}
        for item in self.list_objects(self.kinds, "-n", self.kubectl.namespace):
            if self.name in (item["metadata"]["name"], item["metadata"].get("labels", {}).get(SERVICE_LABEL)):
                found[item["kind"]][item["metadata"]["name"]] = item
        return ServiceState(
            found["InferenceService"].get(self.name), found["Revision"], found["Route"], list(found["Pod"].values())
        )

    def list_objects(self, kinds: Sequence[str], *scope: str) -> list[KubernetesObject]:
        """The objects of these kinds, without those of Knative where KServe runs without it."""
        try:
            return json.loads(self.kubectl.run("get", ",".join(kinds), *scope, "-o", "json"))["items"]
        except KubectlFailed as error:
            if not error.without_knative:
                raise
        self.kinds = [kind for kind in self.kinds if kind not in (REVISION_KIND, ROUTE_KIND)]
        return self.list_objects([kind for kind in kinds if kind in self.kinds], *scope)

    def secrets(self) -> list[KubernetesObject]:
        """The Secrets of the service's versions, the latest first."""
        selector = f"--selector={SERVICE_LABEL}={self.name}"
        secrets = (self.kubectl.get("secret", selector) or {"items": []})["items"]
        secrets.sort(key=lambda secret: secret["metadata"]["creationTimestamp"], reverse=True)
        shared = self.kubectl.get("secret", self.name)  # of all versions, until each got its own
        return [*secrets, *([shared] if shared else [])]

    def bind_credentials(self, state: ServiceState) -> None:
        """Let Kubernetes delete credentials together with the last revision that uses them."""
        users: dict[str, list[KubernetesObject]] = {}
        for revision in state.revisions.values() if state.on_knative else filter(None, [state.service]):
            account = account_of(revision)
            if account:
                users.setdefault(account, []).append(owner_reference(revision))
        for account, owners in users.items():
            patch = json.dumps({"metadata": {"ownerReferences": owners}})
            try:  # all kinds at once: each start of kubectl takes a while
                self.patch(",".join(CREDENTIAL_KINDS), account, "--type=strategic", f"--patch={patch}")
            except KubectlFailed as error:
                # Among these lines may be warnings, of an aggregated API that is down.
                errors = [line for line in error.stderr.splitlines() if line.startswith("Error")]
                if not error.not_found or any("(NotFound)" not in line for line in errors):
                    raise

    def used_elsewhere(self) -> set[str]:
        """The s3:// URIs that other services in the cluster read, in any namespace.

        Raises:
            Failure: they cannot be listed.
        """
        try:
            items = self.list_objects([KSERVE_KIND, REVISION_KIND], "--all-namespaces")
        except KubectlFailed as error:
            raise Failure(
                f"cannot check whether services in other namespaces use these files, so nothing was deleted: {error}"
            ) from None
        others = [item for item in items if not self.owns(item)]
        return set(re.findall(r's3://[^"\s]+', json.dumps(others)))

    def owns(self, item: KubernetesObject) -> bool:
        meta = item["metadata"]
        names = (meta["name"], meta.get("labels", {}).get(SERVICE_LABEL))
        return meta["namespace"] == self.kubectl.namespace and self.name in names

    def patch(self, kind: str, name: str, *args: str) -> None:
        self.kubectl.run("patch", kind, name, "-n", self.kubectl.namespace, "--field-manager=deploy-service", *args)

    def set_canary(self, percent: int | None, state: ServiceState) -> None:
        """Give the newest revisions this share of the requests, or all with None.

        Raises:
            Replaced: the InferenceService has another spec than in `state`: its newest revisions are others.
        """
        changes: list[dict[str, Any]] = []
        for name in state.components:
            digest = SPEC_ANNOTATION.replace("/", "~1")
            path, part = f"/spec/{name}", state.spec[name]
            changes.append({"op": "test", "path": f"{path}/annotations/{digest}", "value": signature(part)})
            if percent is not None:
                changes.append({"op": "add", "path": f"{path}/canaryTrafficPercent", "value": percent})
            elif "canaryTrafficPercent" in part:
                changes.append({"op": "remove", "path": f"{path}/canaryTrafficPercent"})
        try:
            self.patch(KSERVE_KIND, self.name, "--type=json", f"--patch={json.dumps(changes)}")
        except KubectlFailed:
            self.fetch().check_not_replaced(state.spec)
            raise

    def set_rolled_out(self, revisions: dict[str, str]) -> None:
        """Give the requests that the newest revisions do not get to these, by component.

        KServe has no request for this: it sends them to the revision in its own status.
        """
        components = {name: {"latestRolledoutRevision": revision} for name, revision in revisions.items()}
        patch = json.dumps({"status": {"components": components}})
        self.patch(KSERVE_KIND, self.name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def set_standby(self, state: ServiceState, revisions: list[str]) -> None:
        """Make a version the standby: it keeps its pods, and answers at the host of a Route of its own."""
        if state.service:
            self.kubectl.apply(standby_route(state.service, revisions))

    def annotate_revisions(self, names: list[str], annotations: Mapping[str, str | None]) -> None:
        """Set annotations, or remove them with None."""
        self.kubectl.run(
            "annotate",
            REVISION_KIND,
            *names,
            "-n",
            self.kubectl.namespace,
            "--overwrite",
            *(f"{name}-" if value is None else f"{name}={value}" for name, value in annotations.items()),
        )

    def delete_pods(self, names: set[str]) -> None:
        """Delete pods without waiting for their end. Their Deployments re-create them."""
        if names:
            self.kubectl.run(
                "delete", "pod", *names, "-n", self.kubectl.namespace, "--wait=false", "--ignore-not-found"
            )

    def delete(self) -> None:
        """Delete the service with its credentials, also those of earlier releases, which had its name."""
        namespace = ("-n", self.kubectl.namespace)
        output = self.kubectl.run("delete", KSERVE_KIND, self.name, *namespace, "--ignore-not-found").strip()
        log.info("kubectl: %s", output or f"no InferenceService {self.name}")
        selector = f"--selector={SERVICE_LABEL}={self.name}"
        kinds = ",".join((*CREDENTIAL_KINDS, NETWORK_POLICY_KIND))
        earlier = (f"secret/{self.name}", f"serviceaccount/{self.name}", f"configmap/{self.name}-store-ca")
        outputs = [
            self.kubectl.run("delete", *what, *namespace, "--ignore-not-found") for what in ((kinds, selector), earlier)
        ]
        for line in "".join(outputs).splitlines():
            if "No resources found" not in line:
                log.info("kubectl: %s", line)


def all_keys(secrets: list[KubernetesObject], names: tuple[str, str] = READER_KEYS) -> list[tuple[str, str]]:
    """(access key, secret key) of each Secret that has both.

    Args:
        names: of the two keys in the Secrets.
    """
    return [keys for secret in secrets if (keys := keys_in(secret, names))]


def keys_in(secret: KubernetesObject, names: tuple[str, str] = READER_KEYS) -> tuple[str, str] | None:
    data = secret.get("data") or {}
    access_key, secret_key = (base64.b64decode(data.get(name, "")).decode() for name in names)
    return (access_key, secret_key) if access_key and secret_key else None


def account_of(item: KubernetesObject) -> str | None:
    """The ServiceAccount of a revision, or of an InferenceService's predictor."""
    spec = item.get("spec", {})
    return spec.get("serviceAccountName") or spec.get("predictor", {}).get("serviceAccountName")
