"""A stub of KServe v0.20.0 and Knative v1.21, which are published as images only, of a kubelet, and of the ingress gateway.

It works on any API server, the real one or stub_kubernetes.py. Modelled on the source:

- revisions, traffic and conditions: createKnativeService (ksvc_reconciler.go), PropagateStatus
  (inference_service_status.go) and Reconcile (ingress_reconciler.go) of kserve/kserve;
- environment of the storage initializer: pkg/credentials/s3/s3_secret.go of kserve/kserve;
- a revision that no Route names loses its pods, after 3 s here and 90 s there, and keeps one while it is queried:
  pa_lifecycle.go and scaler.go of knative/serving;
- a request to a revision without a ready pod adds pods up to its max-scale: the activator.

Verified on a Kind cluster with the complete platform: the same deployments, canaries, rollbacks and failures were run
there, and where the stub differed (webhook, readiness probes, scaling to zero) it was changed.

With `download` a pod runs KServe's own storage initializer; with `serve` also the predictor of sklearn_predictor.py and
the transformer of this repository.
"""

import contextlib
import copy
import http.client
import json
import random
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kubernetes

from doubles.stub_kubelet import NODE, Pod, StubKubelet, pod_status, stop

IDLE_SECONDS = 3
ISVC = ("serving.kserve.io", "v1beta1")
REVISION = ("serving.knative.dev", "v1")


DENIED = 'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '


def refused_ports(component):
    """The error of Knative's webhook for several containers of which not exactly one has a port, or None.

    validateContainersPorts in pkg/apis/serving/k8s_validation.go. The predictor's container has none.
    """
    containers = component.get("containers", [])
    ports = sum(len(container.get("ports", [])) for container in containers)
    if ports > 1:
        return f"{DENIED}more than one container port is set: spec.template.spec.containers[*].ports"
    if ports == 0 and len(containers) + ("model" in component) > 1:
        return f"{DENIED}missing field(s): spec.template.spec.containers[*].ports"
    return None


def refused_probe(component):
    """The error of Knative's webhook for a readiness probe it rejects (pkg/apis/serving/k8s_validation.go), or None."""
    for position, container in enumerate(component.get("containers", [])):
        probe = container.get("readinessProbe", {})
        for field in ("failureThreshold", "timeoutSeconds"):
            if field in probe and not probe.get("periodSeconds"):
                return (
                    f"{DENIED}{field} is disallowed when periodSeconds is zero: "
                    f"spec.template.spec.containers[{position}].readinessProbe.{field}"
                )
    return None


class StubKServe(StubKubelet):
    """Runs until its `with` block ends. `ingress` is the URL of the ingress gateway."""

    def __init__(
        self,
        kubeconfig,
        work,
        images=(),
        cpus=4.0,
        download=False,
        serve=False,
        logs=None,
        mode="Knative",
        changes=None,
    ):
        client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self.core = kubernetes.client.CoreV1Api(client)
        self.custom = kubernetes.client.CustomObjectsApi(client)
        self.work, self.images, self.cpus, self.mode = work, set(images), cpus, mode
        self.download, self.serving = download or serve, serve
        self.logs = {} if logs is None else logs  # (namespace, pod, container) -> text
        self.pods = {}  # (namespace, service, component) -> [Pod, ...], oldest first
        self.routed = {}  # host -> (namespace, service), once the ingress was made
        self.broken = None  # what went wrong in the controller's thread
        self.calls = []  # (version, status) of each request through the ingress
        self.failing = set()  # components whose new pods crash
        self.programs = {}  # what runs instead of transformer.py, by image: a script and its first arguments
        self.misled = False  # whether new pods answer as another training run would
        self.route_first = False  # whether Knative's route has a new split before there is a new revision
        self.starting_seconds = 0  # how long a pod takes to start
        self.ending_seconds = 0  # how long a deleted pod takes to end: 35 to 70 s on a real cluster
        self.placed = {}  # (namespace, pod) -> CPU that it keeps on the node
        self.ending = {}  # (namespace, pod) -> when its end began
        self.lock = threading.RLock()
        self.between_rounds = threading.Lock()  # for who changes what the controller knows
        self.refusal = None  # why Knative's webhook refuses what KServe makes
        self.stopping = threading.Event()
        self.rounds = 0
        self.changes = changes  # returns the number of changes to the API server's objects; not known of a real one
        self.seen, self.due = None, 0  # changes before the latest round; when the next one is due without any
        self.lists = {}  # what was read of each kind, after how many changes
        stub = self

        class Gateway(GatewayHandler):
            kserve = stub

        self.gateway = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
        self.gateway.daemon_threads = True
        self.ingress = f"http://127.0.0.1:{self.gateway.server_port}"

    def __enter__(self):
        room = {"cpu": str(self.cpus), "memory": "64Gi"}
        with contextlib.suppress(kubernetes.client.ApiException):  # there already
            self.core.create_node({"metadata": {"name": NODE}, "status": {"allocatable": room}})
        self.core.patch_node_status(NODE, {"status": {"allocatable": room, "capacity": room}})
        self.controller = threading.Thread(target=self.run, daemon=True)
        self.controller.start()
        threading.Thread(target=self.gateway.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.controller.join(10)
        self.gateway.shutdown()
        self.gateway.server_close()
        for pod in self.all_pods():
            stop(pod)

    def all_pods(self):
        return [pod for pods in list(self.pods.values()) for pod in pods]

    def pod(self, namespace, name):
        """The pod of a revision."""
        return next(
            pod for pods in self.pods.values() for pod in pods if (pod.namespace, pod.name) == (namespace, name)
        )

    def settle(self):
        """Wait until the controller has seen what the cluster holds now."""
        seen = self.rounds
        while self.rounds < seen + 2:
            assert self.controller.is_alive()
            self.seen = None
            time.sleep(0.02)

    # --- The controller -----------------------------------------------------------------------

    def run(self):
        while not self.stopping.wait(0.01):
            if self.nothing_to_do():
                continue
            try:
                with self.between_rounds:
                    self.reconcile_all()
                self.rounds += 1
            except kubernetes.client.ApiException as error:
                going = error.status in (404, 409) or "being terminated" in str(error.body)
                if not going:  # gone or changed meanwhile: next round
                    self.broken = error
            except Exception as error:
                self.broken = error

    def reconcile_all(self):
        services = self.list_all(*ISVC, "inferenceservices")
        for service in services:
            self.reconcile(service)
        self.remove_others(services)
        self.tend_pods()
        if self.mode == "Knative":
            routes = self.list_all(*REVISION, "routes")
            for route in routes:
                self.lead(route, services)
            self.scale(services, routes)

    def list_all(self, *kind):
        return self.unless_unchanged(kind, lambda: self.custom.list_cluster_custom_object(*kind)["items"])

    def unless_unchanged(self, kind, read):
        """The objects of a kind, which are read again if something has changed."""
        changes = self.changes() if self.changes else None
        known, items = self.lists.get(kind, (None, None))
        if changes is None or changes != known:
            items = read()
            self.lists[kind] = changes, items
        return items

    def nothing_to_do(self):
        """Whether nothing has changed since the latest round; what only takes time is looked at twice a second."""
        changes = self.changes() if self.changes else None
        if changes is not None and changes == self.seen and time.monotonic() < self.due:
            return True
        self.seen, self.due = changes, time.monotonic() + 0.5
        return False

    def reconcile(self, service):
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        before = service.get("status") or {}
        status = copy.deepcopy(before)
        status["deploymentMode"] = self.mode
        if self.refusal:
            set_condition(status, "PredictorReady", "False", "ReconcileFailed", self.refusal)
            return self.put_status(namespace, name, before, status)
        for component in ("predictor", "transformer"):
            if component in service["spec"]:
                spec = dict(service["spec"][component])
                refused = refused_probe(spec) or refused_ports(spec)
                if refused:
                    set_condition(status, f"{component.capitalize()}Ready", "False", "ReconcileFailed", refused)
                    continue
                percent = spec.pop("canaryTrafficPercent", None)
                known = self.pods.get((namespace, name, component), [])
                if self.route_first and known and known[-1].template != spec:
                    propagate(status, component, known, percent, self.mode)
                pods = self.revise(namespace, name, component, spec)
                propagate(status, component, pods, percent, self.mode)
        self.route(service, status, f"{name}.{namespace}.example.com")
        return self.put_status(namespace, name, before, status)

    def put_status(self, namespace, name, before, status):
        if status != before:
            self.custom.patch_namespaced_custom_object_status(
                *ISVC, namespace, "inferenceservices", name, {"status": status}
            )

    def revise(self, namespace, name, component, template):
        """Make a revision of a new template. Returns the revisions' pods, oldest first."""
        pods = self.pods.setdefault((namespace, name, component), [])
        if not pods or pods[-1].template != template:
            pod = Pod(namespace, f"{name}-{component}-{len(pods) + 1:05d}", component, template)
            annotations = {
                **template.get("annotations", {}),
                "internal.serving.kserve.io/storage-initializer-sourceuri": pod.source,
            }
            meta = {
                "name": pod.name,
                "annotations": annotations,
                "labels": {
                    **template.get("labels", {}),
                    "component": component,
                    "serving.kserve.io/inferenceservice": name,
                    "serving.knative.dev/revision": pod.name,
                },
            }
            container = {
                "name": "kserve-container",
                "image": pod.container.get("image", "sklearnserver"),
                "args": pod.container.get("args", []),
                "resources": pod.container["resources"],
            }
            account = template["serviceAccountName"]
            if self.mode == "Knative":
                self.custom.create_namespaced_custom_object(
                    *REVISION,
                    namespace,
                    "revisions",
                    {
                        "apiVersion": "/".join(REVISION),
                        "kind": "Revision",
                        "metadata": meta,
                        "spec": {"containers": [container], "serviceAccountName": account},
                    },
                )
            pod.manifest = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": meta,
                "spec": {
                    "containers": [
                        container,
                        {"name": "queue-proxy", "image": "queue", "resources": {"requests": {"cpu": "25m"}}},
                        *pod.sidecars,
                    ],
                    "initContainers": [
                        {
                            "name": "storage-initializer",
                            "image": "storage-initializer",
                            "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
                        }
                    ],
                },
            }
            pods.append(pod)
            self.set_replicas(pod, 1)
        return pods

    def route(self, service, status, host):
        """IngressReady and Ready. A route that was made stays when the newest revision fails."""
        conditions = {item["type"]: item for item in status.get("conditions", [])}
        ready, reason = "True", ""
        for component in ("Predictor", "Transformer"):
            if component.lower() in service["spec"] and conditions[f"{component}Ready"]["status"] != "True":
                ready, reason = conditions[f"{component}Ready"]["status"], f"{component} ingress not created"
                break
        if ready == "True":
            status["url"] = f"http://{host}"
            namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
            self.routed[host] = (namespace, name)
            labels = service["spec"]["predictor"].get("labels", {})
            if "transformer" in service["spec"] and labels.get("networking.knative.dev/visibility") != "cluster-local":
                self.routed[f"{name}-predictor.{namespace}.example.com"] = (namespace, name, "predictor")
        set_condition(status, "IngressReady", ready, reason)
        overall = min(
            (item["status"] for item in status["conditions"] if item["type"] in ("PredictorReady", "IngressReady")),
            key=["False", "Unknown", "True"].index,
        )
        set_condition(status, "Ready", overall, "")

    def lead(self, route, services):
        """A Route of its own: ready once its revisions are, at a host of its name. It goes with its owner."""
        meta = route["metadata"]
        owners = {owner["uid"] for owner in meta.get("ownerReferences", [])}
        if owners and not owners & {service["metadata"]["uid"] for service in services}:
            self.custom.delete_namespaced_custom_object(*REVISION, meta["namespace"], "routes", meta["name"])
            return
        host, targets = f"{meta['name']}.{meta['namespace']}.example.com", route["spec"]["traffic"]
        ready = all(self.pod(meta["namespace"], target["revisionName"]).ready for target in targets)
        status = {
            "url": f"http://{host}",
            "traffic": targets if ready else [],
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
        if ready:
            self.routed[host] = (meta["namespace"], targets)
        if route.get("status") != status:
            self.custom.patch_namespaced_custom_object_status(
                *REVISION, meta["namespace"], "routes", meta["name"], {"status": status}
            )

    def scale(self, services, routes):
        """Knative's autoscaler: pods for the revisions that a Route names, and for no others."""
        named = {
            (route["metadata"]["namespace"], target["revisionName"])
            for route in routes
            for target in route["spec"]["traffic"]
        }
        for service in services:
            for component in service.get("status", {}).get("components", {}).values():
                names = [target.get("revisionName") for target in component.get("traffic", [])]
                names.append(component["latestCreatedRevision"])
                named.update((service["metadata"]["namespace"], name) for name in names)
        listed = self.list_all(*REVISION, "revisions")
        revisions = {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in listed}
        for pod in self.all_pods():
            if (pod.namespace, pod.name) not in revisions:
                continue
            annotations = revisions[pod.namespace, pod.name]["metadata"]["annotations"]
            if pod.proven and pod_annotations(annotations) != pod_annotations(pod.manifest["metadata"]["annotations"]):
                pod.manifest["metadata"]["annotations"] = annotations
                count = pod.replicas
                self.set_replicas(pod, 0)
                self.set_replicas(pod, count)
            given_up = (
                annotations.get("serving.knative.dev/progress-deadline") == "1s"
                and annotations.get("autoscaling.knative.dev/target-burst-capacity") == "-1"
            )
            idle = (pod.namespace, pod.name) not in named or annotations.get("autoscaling.knative.dev/min-scale") == "0"
            if not (idle and (pod.proven or given_up) and not self.is_asked(pod)):
                pod.idle_since = None
            elif pod.idle_since is None:
                pod.idle_since = time.monotonic()
            elif time.monotonic() - pod.idle_since >= IDLE_SECONDS:
                self.set_replicas(pod, 0)
            if pod.replicas == 0 and not idle:
                self.set_replicas(pod, 1)

    def is_asked(self, pod):
        """Whether there is a transformer that checks this predictor, whatever its own requests are."""
        return any(other.predictor == pod.name and other.replicas for pods in self.pods.values() for other in pods)

    def set_replicas(self, pod, count):
        """As a Deployment does. Only the first pod of a revision runs anything."""
        with self.lock:
            for name in pod.names[count:]:
                with contextlib.suppress(kubernetes.client.ApiException):
                    self.core.delete_namespaced_pod(name, pod.namespace, grace_period_seconds=self.ending_seconds)
            pod.names = pod.names[:count]
            while pod.replicas < count:
                pod.names.append(pod.next_name())
                if pod.replicas == 1:
                    pod.ready, pod.failure, pod.unloaded = False, None, False
                    stop(pod)
                    threading.Thread(target=self.start, args=(pod, pod.names[0]), daemon=True).start()
                else:
                    self.placed[pod.namespace, pod.names[-1]] = pod.cpu
                    self.create_pod_like_the_first(pod, pod.names[-1])

    def create_pod_like_the_first(self, pod, name):
        failure = pod.failure
        self.create_pod(pod, name)
        pod.failure = failure
        self.core.patch_namespaced_pod_status(name, pod.namespace, {"status": pod_status(pod)})

    def remove_others(self, services):
        there = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in services}
        for key in [key for key in self.pods if key[:2] not in there]:
            for pod in self.pods.pop(key):
                stop(pod)
                self.set_replicas(pod, 0)
                with contextlib.suppress(kubernetes.client.ApiException):
                    self.custom.delete_namespaced_custom_object(*REVISION, pod.namespace, "revisions", pod.name)
        self.routed = {host: key for host, key in self.routed.items() if isinstance(key[1], list) or key[:2] in there}

    def choose(self, host):
        """The pod that a request for this host goes to, by the traffic split."""
        namespace, name, *component = self.routed[host]
        if isinstance(name, list):  # the targets of a Route of its own
            return self.pod(namespace, next(target["revisionName"] for target in name if target["percent"]))
        front = "transformer" if (namespace, name, "transformer") in self.pods else "predictor"
        front = component[0] if component else front
        if self.mode == "Standard":
            return self.pods[namespace, name, front][-1]
        status = self.custom.get_namespaced_custom_object(*ISVC, namespace, "inferenceservices", name)["status"]
        targets = status["components"][front]["traffic"]
        chosen = random.choices([item["revisionName"] for item in targets], [item["percent"] for item in targets])[0]
        return self.pod(namespace, chosen)

    def wait_in_queue(self, pod):
        """Knative's activator: whoever asks a revision without a ready pod makes it more pods, up to max-scale."""
        most = pod.template.get("maxReplicas") or pod.replicas + 1
        if pod.replicas < most:
            self.set_replicas(pod, pod.replicas + 1)


def pod_annotations(annotations):
    """Those of a revision's annotations that its pods get: Knative re-creates the pods when they change."""
    return {key: value for key, value in annotations.items() if not key.startswith("autoscaling.knative.dev")}


def propagate(status, component, pods, percent, mode):
    """The component's status: createKnativeService and PropagateStatus of KServe v0.20.0."""
    found = status.setdefault("components", {}).setdefault(component, {})
    ready = [pod for pod in pods if pod.proven]
    created, newest_ready = pods[-1].name, (ready[-1].name if ready else None)
    rolled_out = found.get("latestRolledoutRevision")
    targets = [{"latestRevision": True, "percent": 100, "revisionName": newest_ready}]
    if percent is not None and rolled_out:
        targets[0]["percent"] = percent
        if percent < 100:
            targets.append(
                {"revisionName": rolled_out, "latestRevision": False, "percent": 100 - percent, "tag": "prev"}
            )
    found["latestCreatedRevision"] = created
    if newest_ready and mode == "Knative":
        if rolled_out != newest_ready:
            if targets[0]["percent"] == 100:
                if rolled_out:
                    found["previousRolledoutRevision"] = rolled_out
                found["latestRolledoutRevision"] = newest_ready
        elif newest_ready == created and targets[0]["percent"] < 100 and found.get("previousRolledoutRevision"):
            found["latestRolledoutRevision"] = found["previousRolledoutRevision"]
        found["latestReadyRevision"] = newest_ready
        found["traffic"] = targets
    if newest_ready == created:
        set_condition(status, f"{component.capitalize()}Ready", "True", "")
    elif pods[-1].failure:
        set_condition(
            status,
            f"{component.capitalize()}Ready",
            "False",
            "RevisionFailed",
            f'Revision "{created}" failed with message: {pods[-1].failure[2]}.',
        )
    else:
        set_condition(
            status,
            f"{component.capitalize()}Ready",
            "Unknown",
            "",
            f'Configuration "{created[:-6]}" is waiting for a Revision to become ready.',
        )


def set_condition(status, kind, value, reason, message=""):
    new = {
        "type": kind,
        "status": value,
        **({"reason": reason} if reason else {}),
        **({"message": message} if message else {}),
    }
    conditions = status.setdefault("conditions", [])
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            if {**old, "lastTransitionTime": None} != {**new, "lastTransitionTime": None}:
                conditions[index] = {**new, "lastTransitionTime": now()}
            return
    conditions.append({**new, "lastTransitionTime": now()})


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class GatewayHandler(BaseHTTPRequestHandler):
    """The ingress: Host chooses the service, its traffic split the revision."""

    kserve = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        host = self.headers["Host"]
        if host not in self.kserve.routed:
            self.send_error(404)
            return
        pod = self.kserve.choose(host)
        if self.path.endswith("/unload"):
            pod.unloaded = True
        code, answer = self.ask(pod, body)
        self.kserve.calls.append((pod.template["labels"]["app.kubernetes.io/version"], code))
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def ask(self, pod, body):
        if not pod.ready:
            self.kserve.wait_in_queue(pod)
            return 503, b"upstream connect error or disconnect/reset before headers"
        if pod.predictor and self.kserve.mode == "Knative":
            predictor = self.kserve.pod(pod.namespace, pod.predictor)
            if not predictor.ready:
                self.kserve.wait_in_queue(predictor)
                return 504, b'{"error": "the predictor did not answer in time"}'
            if predictor.unloaded:
                return 503, b'{"error": "the predictor has no model"}'
        if pod.port is None:  # nothing real runs
            texts = [instance[0] for instance in json.loads(body)["instances"]]
            return 200, json.dumps({"predictions": [pod.numbers.get(text, 0) for text in texts]}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", pod.port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Content-Length")}
        connection.request("POST", self.path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
