"""A stub of kube-apiserver, for machines without a cluster.

It speaks enough of the API over HTTP for the real kubectl and the Python client: discovery, OpenAPI v3 (kubectl queries
whether the server validates fields), get, list with selectors, create, server-side apply, merge, strategic and JSON
patches, delete with a pod's grace period, garbage collection of objects whose owners are gone, pod logs and access
reviews. It has no schemas and watches, and of admission only what KServe refuses of a logger.

Verified against kube-apiserver 1.34: the same tests ran there (DEPLOY_TEST_KUBECONFIG, see docs/deploy.md).
"""

import copy
import json
import re
import threading
import uuid
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import yaml

from support.server_thread import ServerThread

KINDS = {
    # plural: (group/version, kind, namespaced)
    "namespaces": ("v1", "Namespace", False),
    "secrets": ("v1", "Secret", True),
    "serviceaccounts": ("v1", "ServiceAccount", True),
    "configmaps": ("v1", "ConfigMap", True),
    "pods": ("v1", "Pod", True),
    "events": ("v1", "Event", True),
    "nodes": ("v1", "Node", False),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy", True),
    "leases": ("coordination.k8s.io/v1", "Lease", True),
    "roles": ("rbac.authorization.k8s.io/v1", "Role", True),
    "rolebindings": ("rbac.authorization.k8s.io/v1", "RoleBinding", True),
    "cronjobs": ("batch/v1", "CronJob", True),
    "priorityclasses": ("scheduling.k8s.io/v1", "PriorityClass", False),
    "inferenceservices": ("serving.kserve.io/v1beta1", "InferenceService", True),
    "revisions": ("serving.knative.dev/v1", "Revision", True),
    "routes": ("serving.knative.dev/v1", "Route", True),
    "selfsubjectaccessreviews": ("authorization.k8s.io/v1", "SelfSubjectAccessReview", False),
}


def refused_logger(spec):
    """Why KServe's webhook refuses a logger of a component, or None.

    The enum of the mode is in the resource definition, the rest is validateLogger in kserve/kserve v0.20.0,
    pkg/apis/serving/v1beta1/component.go.
    """
    for name, component in spec.items():
        logger = component.get("logger") if isinstance(component, dict) else None
        if logger is None:
            continue
        mode = logger.get("mode", "")
        if mode not in ("", "all", "request", "response"):
            return (
                f'spec.{name}.logger.mode: Unsupported value: "{mode}": supported values: "all", "request", "response"'
            )
        if not mode:
            return "invalid logger type"
        if not {"path", "parameters", "key"} <= logger.get("storage", {"path": 0, "parameters": 0, "key": 0}).keys():
            return "invalid logger storage configuration"
    return None


class StubKubernetes(ServerThread):
    """The server and its objects. `with StubKubernetes() as api: api.kubeconfig(...)`."""

    def __init__(self, port=0, kserve=True):
        self.kinds = {plural: kind for plural, kind in KINDS.items() if kserve or not kind[0].startswith("serving.")}
        self.objects = {}  # (plural, namespace, name) -> object
        self.applied = {}  # (plural, namespace, name, manager) -> what the manager applied last
        self.logs = {}  # (namespace, pod, container) -> text
        self.sick = False  # whether an aggregated API is down, as a metrics-server often is
        self.lock = threading.RLock()
        self.count = 0  # of the changes so far
        api = self

        class Handler(RequestHandler):
            stub = api

        super().__init__(Handler, port)
        self.put("namespaces", None, {"metadata": {"name": "default"}})

    def put(self, plural, namespace, new):
        """Store an object with the metadata that a server adds; returns it."""
        with self.lock:
            self.count += 1
            key = (plural, namespace, new["metadata"]["name"])
            old = self.objects.get(key)
            group_version, kind, namespaced = self.kinds[plural]
            new = copy.deepcopy({"apiVersion": group_version, "kind": kind, **new})
            meta = new["metadata"]
            if namespaced:
                meta["namespace"] = namespace
            meta["uid"] = old["metadata"]["uid"] if old else str(uuid.uuid4())
            meta["creationTimestamp"] = (
                old["metadata"]["creationTimestamp"] if old else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            )
            changed = old is None or old.get("spec") != new.get("spec")
            meta["generation"] = (old["metadata"]["generation"] if old else 0) + changed
            meta["resourceVersion"] = str(self.count)
            if plural == "namespaces":
                new.setdefault("status", {"phase": "Active"})
            self.objects[key] = new
            return new

    def apply(self, plural, namespace, name, manager, config):
        """Server-side apply, forced: fields that the manager no longer names go, if it alone had them."""
        with self.lock:
            live = copy.deepcopy(self.objects.get((plural, namespace, name), {}))
            before = self.applied.get((plural, namespace, name, manager), {})
            others = [
                applied
                for (*key, who), applied in self.applied.items()
                if tuple(key) == (plural, namespace, name) and who != manager
            ]
            for path in leaves(before) - leaves(config):
                if not any(path in leaves(other) for other in others):
                    remove(live, path)
            merge(live, config)
            self.applied[(plural, namespace, name, manager)] = copy.deepcopy(config)
            return self.put(plural, namespace, live)

    def delete(self, plural, namespace, name):
        with self.lock:
            self.count += 1
            found = self.objects[(plural, namespace, name)]
            if plural == "namespaces":
                inside = [key for key in self.objects if key[1] == name]
                if any(self.objects[key]["metadata"].get("finalizers") for key in inside):
                    found["status"] = {"phase": "Terminating"}
                    return found
                for key in inside:
                    del self.objects[key]
            for key in [key for key in self.applied if key[:3] == (plural, namespace, name)]:
                del self.applied[key]
            self.objects.pop((plural, namespace, name))
            self.collect_garbage()
            return found

    def collect_garbage(self):
        """Delete the objects whose owners are all gone."""
        uids = {item["metadata"]["uid"] for item in self.objects.values()}
        for key, item in list(self.objects.items()):
            owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences", [])}
            if owners and not owners & uids and key in self.objects:
                self.delete(*key)

    def kubeconfig(self, path, **user):
        """Write a kubeconfig for this server, with the user's settings (`as`, for example)."""
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "stub",
                    "clusters": [{"name": "stub", "cluster": {"server": self.url}}],
                    "users": [{"name": "stub", "user": user}],
                    "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "stub"}}],
                }
            )
        )
        return path


def leaves(value, path=()):
    """The set of paths to everything in nested dicts that is no dict."""
    if not isinstance(value, dict) or not value:
        return {path} - {()}
    return {leaf for key, item in value.items() for leaf in leaves(item, (*path, key))}


def remove(value, path):
    for key in path[:-1]:
        value = value.get(key, {})
    value.pop(path[-1], None)


def merge(live, new):
    """JSON merge patch, RFC 7386."""
    for key, value in new.items():
        if value is None:
            live.pop(key, None)
        elif isinstance(value, dict) and isinstance(live.get(key), dict):
            merge(live[key], value)
        else:
            live[key] = copy.deepcopy(value)


def merge_strategically(live, new):
    """Strategic merge patch, as far as metadata.ownerReferences, which are merged by their uid."""
    owners = {owner["uid"]: owner for owner in live["metadata"].get("ownerReferences", [])}
    owners |= {owner["uid"]: owner for owner in new.get("metadata", {}).get("ownerReferences", [])}
    merge(live, new)
    if owners:
        live["metadata"]["ownerReferences"] = list(owners.values())


def apply_json_patch(live, operations):
    """JSON patch, RFC 6902, as far as test, add and remove of an object's members. Returns whether the tests hold."""
    for operation in operations:
        *path, last = [part.replace("~1", "/") for part in operation["path"].strip("/").split("/")]
        place = live
        for part in path:
            place = place.get(part, {})
        if operation["op"] == "test" and place.get(last) != operation["value"]:
            return False
        if operation["op"] == "add":
            place[last] = operation["value"]
        if operation["op"] == "remove":
            del place[last]
    return True


def selected(item, query):
    labels = item["metadata"].get("labels", {})
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, equals, value = term.replace("==", "=").partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, wanted = term.partition("=")
        value = item
        for key in path.split("."):
            value = value.get(key, {})
        if value != wanted:
            return False
    return True


def parse(body):
    """The object in a request: JSON, or the YAML of a server-side apply."""
    return json.loads(body) if body.startswith(b"{") else yaml.safe_load(body)


class RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or an answer in two parts waits 40 ms for the client's acknowledgement
    stub = None

    def log_message(self, *_):
        pass

    def answer(self, body, code=200):
        text = body if isinstance(body, str) else json.dumps(body)
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code, reason, message):
        self.answer(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": code,
            },
            code,
        )

    def do_GET(self):
        self.handle_request("get")

    def do_POST(self):
        self.handle_request("create")

    def do_PUT(self):
        self.handle_request("update")

    def do_PATCH(self):
        self.handle_request("patch")

    def do_DELETE(self):
        self.handle_request("delete")

    def handle_request(self, verb):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        # kubectl asks for access reviews in protobuf; whom they are about is in the headers.
        body = {} if raw.startswith(b"k8s\0") or not raw else parse(raw)
        with self.stub.lock:
            if verb == "get" and self.discover(url.path):
                return None
            found = re.fullmatch(
                r"/(?:api/v1|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?"
                r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|log))?",
                url.path,
            )
            if found and found["plural"] in ("status", "finalize"):
                found = None
            if not found:  # /api/v1/namespaces/NAME itself
                found = re.fullmatch(
                    r"/api/v1/(?P<plural>namespaces)(?:/(?P<name>[^/]+))"
                    r"(?P<sub>)(?P<namespace>)(?P<group>)?",
                    url.path,
                )
            if not found or found["plural"] not in self.stub.kinds:
                return self.refuse(404, "NotFound", "the server could not find the requested resource")
            self.serve(verb, found["plural"], found["namespace"] or None, found["name"], found["sub"], query, body)

    def serve(self, verb, plural, namespace, name, sub, query, body):
        stub = self.stub
        if plural == "selfsubjectaccessreviews":
            allowed = "Impersonate-User" not in self.headers
            return self.answer(
                {
                    "kind": "SelfSubjectAccessReview",
                    "apiVersion": "authorization.k8s.io/v1",
                    "spec": {},
                    "status": {"allowed": allowed},
                },
                201,
            )
        if "Impersonate-User" in self.headers and not (verb == "get" and plural == "inferenceservices"):
            return self.refuse(
                403,
                "Forbidden",
                f'{plural} "{name}" is forbidden: User '
                f'"{self.headers["Impersonate-User"]}" cannot {verb} resource "{plural}"',
            )
        group = self.stub.kinds[plural][0].split("/")[0] if "/" in self.stub.kinds[plural][0] else ""
        shown = f"{plural}.{group}" if group else plural
        old = stub.objects.get((plural, namespace, name))
        if sub == "log":
            text = stub.logs.get((namespace, name, query.get("container")), "")
            return self.answer("\n".join(text.splitlines()[-int(query.get("tailLines", 99)) :]) + "\n")
        if verb == "get" and name is None:
            items = [
                item
                for (kind, space, _), item in sorted(stub.objects.items(), key=str)
                if kind == plural and namespace in (None, space) and selected(item, query)
            ]
            group_version, kind, _ = stub.kinds[plural]
            return self.answer(
                {
                    "apiVersion": group_version,
                    "kind": f"{kind}List",
                    "metadata": {"resourceVersion": str(stub.count)},
                    "items": items,
                }
            )
        is_apply = verb == "patch" and "apply-patch" in self.headers["Content-Type"]
        if verb == "create":
            name = body["metadata"]["name"]
            if (plural, namespace, name) in stub.objects:
                return self.refuse(409, "AlreadyExists", f'{shown} "{name}" already exists')
        elif old is None and not is_apply:
            return self.refuse(404, "NotFound", f'{shown} "{name}" not found')
        if verb == "get":
            return self.answer(old)
        if verb == "delete":
            grace = query.get("gracePeriodSeconds", body.get("gracePeriodSeconds", 30))
            if plural == "pods" and old.get("spec", {}).get("nodeName") and int(grace) > 0:  # the kubelet ends it
                old["metadata"]["deletionTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                return self.answer(stub.put(plural, namespace, old))
            stub.delete(plural, namespace, name)
            if plural in ("pods", "namespaces"):
                return self.answer(old)
            return self.answer(
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Success",
                    "details": {"name": name, "uid": old["metadata"]["uid"]},
                }
            )
        if namespace and old is None:
            space = stub.objects.get(("namespaces", None, namespace))
            if space is None:
                return self.refuse(404, "NotFound", f'namespaces "{namespace}" not found')
            if space["status"]["phase"] == "Terminating":
                return self.refuse(
                    403,
                    "Forbidden",
                    f'{shown} "{name}" is forbidden: unable to create '
                    f"new content in namespace {namespace} because it is being terminated",
                )
        spec = body.get("spec") if plural == "inferenceservices" and isinstance(body, dict) else None
        if reason := refused_logger(spec or {}):
            denied = (
                f'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: {reason}'
            )
            return self.refuse(403, "Forbidden", denied)
        if "dryRun" in query:
            return self.answer({**body, "metadata": {**body["metadata"], "uid": "dry-run"}}, 200 if old else 201)
        expected = body["metadata"].get("resourceVersion") if is_apply or verb == "update" else None
        if old and expected not in (None, old["metadata"]["resourceVersion"]):
            message = f'Operation cannot be fulfilled on {shown} "{name}": the object has been modified'
            return self.refuse(409, "Conflict", message)
        if is_apply:
            new = stub.apply(plural, namespace, name, query["fieldManager"], body)
            return self.answer(new, 200 if old else 201)
        if verb == "patch":
            new = copy.deepcopy(old)
            kind = self.headers["Content-Type"]
            if "json-patch" in kind:
                if not apply_json_patch(new, body):
                    return self.refuse(422, "Invalid", "the server rejected our request due to an error in our request")
            elif "strategic" in kind:
                merge_strategically(new, body)
            else:
                merge(new, body)
        else:
            new = body
        self.answer(stub.put(plural, namespace, new), 201 if verb == "create" else 200)

    def discover(self, path):
        """Answer what kubectl asks before anything else; False when the path is none of that."""
        groups = sorted({kind[0] for kind in self.stub.kinds.values() if "/" in kind[0]})
        if self.stub.sick and path == "/apis/metrics.k8s.io/v1beta1":
            self.refuse(503, "ServiceUnavailable", "the server is currently unable to handle the request")
            return True
        if self.stub.sick and path == "/apis":
            groups.append("metrics.k8s.io/v1beta1")
        found = re.fullmatch(r"/(?:api|apis/([^/]+))/([^/]+)", path)
        if path == "/version":
            self.answer({"major": "1", "minor": "34", "gitVersion": "v1.34.0-stub"})
        elif path == "/api":
            self.answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self.answer(
                {
                    "kind": "APIGroupList",
                    "apiVersion": "v1",
                    "groups": [
                        {
                            "name": group.split("/")[0],
                            "preferredVersion": {"groupVersion": group, "version": group.split("/")[1]},
                            "versions": [{"groupVersion": group, "version": group.split("/")[1]}],
                        }
                        for group in groups
                    ],
                }
            )
        elif path == "/openapi/v3":
            self.answer(
                {
                    "paths": {
                        f"api{'s' if '/' in group else ''}/{group}": {
                            "serverRelativeURL": f"/openapi/v3/api{'s' if '/' in group else ''}/{group}"
                        }
                        for group in ["v1", *groups]
                    }
                }
            )
        elif path.startswith("/openapi/v3/"):
            self.answer(self.openapi(path.removeprefix("/openapi/v3/api").removeprefix("s").strip("/")))
        elif found and "/".join(filter(None, found.groups())) in ["v1", *groups]:
            wanted = "/".join(filter(None, found.groups()))
            self.answer(
                {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": wanted,
                    "resources": [
                        {
                            "name": plural,
                            "singularName": kind.lower(),
                            "namespaced": namespaced,
                            "kind": kind,
                            "verbs": ["create", "delete", "get", "list", "patch", "update"],
                        }
                        for plural, (group, kind, namespaced) in self.stub.kinds.items()
                        if group == wanted
                    ],
                }
            )
        else:
            return False
        return True

    def openapi(self, group_version):
        paths = {}
        for plural, (group, kind, _) in self.stub.kinds.items():
            if group == group_version:
                name, version = group.rsplit("/", 1) if "/" in group else ("", group)
                paths[f"/{plural}/{{name}}"] = {
                    "patch": {
                        "x-kubernetes-action": "patch",
                        "responses": {},
                        "x-kubernetes-group-version-kind": {"group": name, "kind": kind, "version": version},
                        "parameters": [{"name": "fieldValidation", "in": "query"}],
                    }
                }
        return {"openapi": "3.0.0", "info": {"title": "stub", "version": "1"}, "paths": paths}
