"""A stub of the kubelet, the scheduler and KServe's pod webhook: starts the processes of a pod, or simulates it.

As the real ones it reads the Secret whenever a pod is created, re-creates a pod that was deleted, leaves a pod pending
while the node has no room for it, and lets a deleted pod keep its room until it has ended.

The reasons of failed pods (Unschedulable, ImagePullBackOff, CrashLoopBackOff) have the form in which Kubernetes 1.34
reports them; tests/deployment/test_diagnosis.py has statuses recorded on a real cluster.
"""

import base64
import contextlib
import functools
import http.client
import json
import os
import re
import time

import boto3
import botocore.config
import botocore.exceptions
import kubernetes

from support.free_port import free_port
from support.programs import ROOT, Program, run_program

INITIALIZER = "tests/doubles/storage_initializer.py"
BESIDE = "transformer-container"
NODE = "stub-node"


class Pod:
    """One revision's pod: what it was made of, how it fares, and the process that serves."""

    def __init__(self, namespace, name, component, template):
        self.namespace, self.name, self.component, self.template = namespace, name, component, template
        self.ready = False
        self.proven = False  # whether it has ever been ready: Knative's revision stays ready when pods are lost
        self.idle_since = None  # when it lost its requests
        self.unloaded = False  # whether somebody unloaded the model
        self.failure = None  # (container, reason, message)
        self.names, self.created = [], 0  # of its pods; none when Knative scaled it to zero
        self.manifest = None
        self.numbers = {}  # text -> cluster, what it answers where nothing real runs
        self.processes, self.port = [], None
        self.logs = {}

    @property
    def replicas(self):
        return len(self.names)

    def next_name(self):
        self.created += 1
        return f"{self.name}-deployment" + (f"-{self.created}" if self.created > 1 else "")

    @property
    def cpu(self):
        """What one pod requests: its containers with Knative's queue-proxy, or KServe's storage initializer."""
        containers = [self.container, *filter(None, [self.beside]), *self.sidecars]
        return max(0.1, 0.025 + sum(cores(item["resources"]["requests"]["cpu"]) for item in containers))

    @property
    def container(self):
        return self.template["model"] if self.component == "predictor" else self.template["containers"][0]

    @property
    def beside(self):
        """The transformer in the same pod, or None."""
        return next((item for item in self.template.get("containers", []) if item["name"] == BESIDE), None)

    @property
    def sidecars(self):
        """The containers beside the servers: what the manifest names, and the agent that KServe adds for a logger."""
        named = [
            item for item in self.template.get("containers", []) if item["name"] not in (BESIDE, "kserve-container")
        ]
        requests = {"cpu": "100m", "memory": "100Mi"}  # "agent" in inferenceservice-config
        agent = {"name": "agent", "image": "kserve/agent", "resources": {"requests": requests}}
        return [*named, agent] if "logger" in self.template else named

    @property
    def predictor(self):
        """Name of the predictor revision that it calls, or None."""
        args = self.container.get("args", [])
        return args[args.index("--predictor_host") + 1].split(".")[0] if "--predictor_host" in args else None

    @property
    def source(self):
        if self.component == "predictor":
            return self.container["storageUri"]
        return next(item["value"] for item in self.container["env"] if item["name"] == "STORAGE_URI")


class StubKubelet:
    """The part of StubKServe that starts pods."""

    def start(self, pod, name):
        """Run the pod `name` of a revision until it is ready or has failed."""
        if not self.wait_for_room(pod, name):
            return
        try:
            self.run_pod(pod)
        except RuntimeError as error:
            pod.failure = error.args
        except Exception as error:
            self.broken = error
            pod.failure = ("kserve-container", "StubBroken", repr(error))
        if self.stopping.is_set() or name not in pod.names:
            return
        with contextlib.suppress(kubernetes.client.ApiException):  # deleted meanwhile
            self.core.patch_namespaced_pod_status(name, pod.namespace, {"status": pod_status(pod)})
            if self.mode == "Knative" and not pod.proven:
                ready = {"type": "Ready", "status": "False" if pod.failure else "True", "reason": "", "message": ""}
                if pod.failure:
                    ready |= {"reason": pod.failure[1], "message": pod.failure[2]}
                self.custom.patch_namespaced_custom_object_status(
                    "serving.knative.dev",
                    "v1",
                    pod.namespace,
                    "revisions",
                    pod.name,
                    {"status": {"conditions": [ready]}},
                )
        for container, text in pod.logs.items():
            self.logs[(pod.namespace, name, container)] = text
        pod.ready = pod.failure is None
        pod.proven = pod.proven or pod.ready
        self.seen = None  # the controller looks at it at once

    def wait_for_room(self, pod, name):
        """The scheduler: whether the pod found room on the node before it was deleted."""
        told = False
        while not self.stopping.wait(0.01) and name in pod.names:
            with self.lock:
                if sum(self.placed.values()) + pod.cpu <= self.cpus:
                    self.placed[pod.namespace, name] = pod.cpu
                    self.create_pod(pod, name, again=told)
                    return True
            if not told:
                told, failure = True, (None, "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
                pod.failure = failure if not pod.ready else pod.failure
                with self.lock, contextlib.suppress(kubernetes.client.ApiException):
                    if name in pod.names:
                        self.create_pod(pod, name, placed=False)
                        status = {"status": pod_status(pod, failure)}
                        self.core.patch_namespaced_pod_status(name, pod.namespace, status)
        return False

    def create_pod(self, pod, name, placed=True, again=False):
        """The pod in the API; `again` binds one that waited to the node."""
        if again:
            with contextlib.suppress(kubernetes.client.ApiException):
                self.core.delete_namespaced_pod(name, pod.namespace, grace_period_seconds=0)
        spec = pod.manifest["spec"] | ({"nodeName": NODE} if placed else {})
        metadata = {**pod.manifest["metadata"], "name": name}
        self.core.create_namespaced_pod(pod.namespace, {**pod.manifest, "metadata": metadata, "spec": spec})
        pod.failure = None if placed else pod.failure

    def tend_pods(self):
        """End the pods that were deleted, and re-create those that a revision still needs."""
        options = {"label_selector": "serving.knative.dev/revision"}
        found = self.unless_unchanged("pods", lambda: self.core.list_pod_for_all_namespaces(**options).items)
        ending = {(item.metadata.namespace, item.metadata.name) for item in found if item.metadata.deletion_timestamp}
        for namespace, name in ending:
            since = self.ending.setdefault((namespace, name), time.monotonic())
            if time.monotonic() - since >= self.ending_seconds:
                with contextlib.suppress(kubernetes.client.ApiException):
                    self.core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
        there = {(item.metadata.namespace, item.metadata.name) for item in found}
        with self.lock:
            for key in [key for key in self.placed if key not in there and key not in ending]:
                if not any(key == (pod.namespace, name) for pod in self.all_pods() for name in pod.names):
                    del self.placed[key]
            for pod in self.all_pods():
                lost = [name for name in pod.names if (pod.namespace, name) in ending]
                if lost:
                    pod.names = [name for name in pod.names if name not in lost]
                    self.set_replicas(pod, pod.replicas + len(lost))

    def run_pod(self, pod):
        """Start the pod or raise RuntimeError(container, reason, message)."""
        image = pod.container.get("image")
        if image and image not in self.images:
            raise RuntimeError(
                "kserve-container", "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: not found'
            )
        if pod.component in self.failing:
            raise RuntimeError("kserve-container", "CrashLoopBackOff", "back-off 10s restarting failed container")
        self.stopping.wait(self.starting_seconds)
        models = self.work / pod.namespace / pod.name
        if self.download:
            environment = {**os.environ, **self.environment(pod)}
            initializer = run_program(INITIALIZER, pod.source, models, env=environment)
            pod.logs["storage-initializer"] = initializer.stdout + initializer.stderr
            if initializer.returncode:
                raise RuntimeError(
                    "storage-initializer", "CrashLoopBackOff", "back-off 10s restarting failed container"
                )
        else:
            self.read_from_store(pod, "model.joblib" if pod.component == "predictor" and not pod.beside else "")
        if self.serving:
            self.serve(pod, models)
        elif pod.component == "transformer" or pod.beside:
            self.learn(pod, models)

    def learn(self, pod, models):
        """Read from clusters.json what a transformer would answer to each cluster's top terms, as none runs."""
        path = "clusters.json" if pod.component == "transformer" else "transformer/clusters.json"
        summary = json.loads((models / path).read_text() if self.download else self.read_from_store(pod, path))
        clusters = summary["clusters"]
        for position, cluster in enumerate(clusters):
            answer = clusters[(position + self.misled) % len(clusters)]["cluster"]
            pod.numbers[", ".join(cluster["vocabulary_terms"])] = answer

    def read_from_store(self, pod, path):
        """An object below the pod's source as its Secret lets it read it, or the list of them without a path."""
        bucket, prefix = pod.source.removeprefix("s3://").split("/", 1)
        try:
            if path:
                return self.store(pod).get_object(Bucket=bucket, Key=prefix + path)["Body"].read()
            return self.store(pod).list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, KeyError) as error:
            pod.logs["storage-initializer"] = f"{type(error).__name__}: {error}"
            reason = ("CrashLoopBackOff", "back-off 10s restarting failed container")
            raise RuntimeError("storage-initializer", *reason) from error

    def store(self, pod):
        environment = self.environment(pod)
        names = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return client(*(environment[name] for name in names))

    def environment(self, pod):
        """The environment that KServe's webhook gives the storage initializer."""
        account = self.core.read_namespaced_service_account(pod.template["serviceAccountName"], pod.namespace)
        secret = self.core.read_namespaced_secret(account.secrets[0].name, pod.namespace)
        get = secret.metadata.annotations.get
        scheme = "https" if get("serving.kserve.io/s3-usehttps", "1") != "0" else "http"
        endpoint = get("serving.kserve.io/s3-endpoint")
        authority = {}
        if get("serving.kserve.io/s3-cabundle-configmap"):
            config_map = self.core.read_namespaced_config_map(
                get("serving.kserve.io/s3-cabundle-configmap"), pod.namespace
            )
            mounted, file = get("serving.kserve.io/s3-cabundle").rsplit("/", 1)
            assert mounted == "/etc/ssl/custom-certs", "where KServe mounts it"
            path = self.work / f"{pod.namespace}-{file}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(config_map.data[file])
            authority = {"AWS_CA_BUNDLE": str(path)}
        return {
            **authority,
            **{key: base64.b64decode(value).decode() for key, value in secret.data.items()},
            "S3_ENDPOINT": endpoint,
            "AWS_ENDPOINT_URL": f"{scheme}://{endpoint}",
            "S3_USE_HTTPS": get("serving.kserve.io/s3-usehttps", "1"),
            "AWS_DEFAULT_REGION": get("serving.kserve.io/s3-region"),
            "awsAnonymousCredential": get("serving.kserve.io/s3-useanoncredential"),
        }

    def serve(self, pod, models):
        """Run what is in the pod; with two containers, the transformer after the predictor beside it."""
        predictor = [ROOT / "tests/doubles/sklearn_predictor.py", "--model_name", pod.name.rsplit("-", 2)[0]]
        transformer = self.programs.get((pod.beside or pod.container).get("image"), [ROOT / "transformer.py"])
        at = {"/mnt/models": str(models)}
        if pod.component == "transformer":
            args = [self.resolve(argument) for argument in pod.container["args"]]
            pod.port = self.execute(pod, [*transformer, *args, "--transformer-path", models / "transformer.joblib"])
        elif pod.beside:
            model_dir = next(word for word in pod.container["args"] if word.startswith("--model_dir="))
            port = self.execute(pod, [*predictor, "--model_dir", replace(model_dir.partition("=")[2], at)])
            wanted = next(word for word in pod.container["args"] if word.startswith("--http_port="))
            at[f"localhost:{wanted.partition('=')[2]}"] = f"127.0.0.1:{port}"
            pod.port = self.execute(pod, [*transformer, *(replace(word, at) for word in pod.beside["args"])])
        else:
            pod.port = self.execute(pod, [*predictor, "--model_dir", models])

    def execute(self, pod, command):
        """Start a model server and wait until it is ready. Returns its port."""
        port = free_port()
        log = (self.work / f"{pod.name}-{len(pod.processes)}.log").open("w+")
        options = (*command, "--http_port", port, "--enable_grpc", "false")
        process = Program(*options, stdout=log.fileno(), stderr=log.fileno())
        pod.processes.append(process)
        deadline = time.monotonic() + 120
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline or self.stopping.is_set():
                log.seek(0)
                pod.logs["kserve-container"] = log.read()
                raise RuntimeError("kserve-container", "CrashLoopBackOff", "back-off 10s restarting failed container")
            time.sleep(0.1)
        return port

    def resolve(self, argument):
        """Stands in for the cluster's DNS: the host name of a revision becomes its address."""
        found = re.fullmatch(r"([-a-z0-9]+)\.([-a-z0-9]+)\.svc\.cluster\.local", argument)
        if not found:
            return argument
        pod = self.pod(found[2], found[1])
        while pod.port is None and pod.failure is None:
            time.sleep(0.05)
        return f"127.0.0.1:{pod.port}"


@functools.lru_cache(20)
def client(endpoint, region, access_key, secret_key):
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=botocore.config.Config(proxies={}, retries={"total_max_attempts": 1}, connect_timeout=2),
    )


def replace(text, replacements):
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def cores(cpu):
    return float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)


def pod_status(pod, failure=None):
    failure = failure or pod.failure
    ready = "False" if failure else "True"
    status = {"phase": "Pending" if failure else "Running", "conditions": [{"type": "Ready", "status": ready}]}
    if failure:
        container, reason, message = failure
        if container is None:
            status["conditions"].append(
                {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
            )
        else:
            kind = "initContainerStatuses" if container == "storage-initializer" else "containerStatuses"
            status[kind] = [
                {
                    "name": container,
                    "ready": False,
                    "restartCount": 2,
                    "image": "",
                    "imageID": "",
                    "state": {"waiting": {"reason": reason, "message": message}},
                }
            ]
    return status


def stop(pod):
    for process in pod.processes:
        process.terminate()
        process.wait(20)
    pod.processes, pod.port = [], None


def answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
