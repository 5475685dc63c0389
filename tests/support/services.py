"""A model trained by the real script on a real corpus, and servers of it that speak real HTTP and gRPC."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from corpus.source import Corpus, load_corpus
from support.free_port import free_port
from support.programs import Program, run_program
from support.shared_files import made_once

NAME = "textclustering"
START_TIMEOUT = 120

sys.argv = sys.argv[:1]  # KServe parses the command line when it is imported


def run_training(*options, **popen) -> subprocess.CompletedProcess:
    return run_program("scripts/text_clustering.py", *options, **popen)


@pytest.fixture(scope="session")
def corpus(shared_folder) -> Corpus:
    """The documentation inside botocore, whose parsing takes 3 s."""
    parsed = shared_folder / "aws-docs.pickle"
    with made_once(parsed) as first:
        if first:
            parsed.write_bytes(pickle.dumps(load_corpus("aws-docs")))
    return pickle.loads(parsed.read_bytes())


@pytest.fixture(scope="session")
def artefacts(shared_folder) -> Path:
    """The folder of a training run on the documentation inside botocore."""
    folder = shared_folder / "artefacts"
    with made_once(folder) as first:
        if first:
            run = run_training("--dataset", "aws-docs", "--lsa", "50", "--output-dir", folder)
            assert run.returncode == 0, run.stderr
    return folder


class Service(SimpleNamespace):
    """A model server in a process of its own."""

    def post(self, verb: str, body, content_type="application/json", **headers) -> tuple[int, dict]:
        """POST to /v1/models/NAME:VERB, or to /v2/models/NAME/infer; returns the status and the decoded answer."""
        path = f"/v2/models/{NAME}/infer" if verb == "infer" else f"/v1/models/{NAME}:{verb}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def predict(self, documents: list[str]) -> list[int]:
        status, answer = self.post("predict", {"instances": documents})
        assert status == 200, answer
        return answer["predictions"]

    def metrics(self) -> str:
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as response:
            return response.read().decode()


def start(script: str, *options, http_port=None, grpc_port=None) -> Service:
    """Start a model server; it is not ready yet."""
    http_port, grpc_port = http_port or free_port(), grpc_port or free_port()
    options = ("--model_name", NAME, "--http_port", http_port, "--grpc_port", grpc_port, *options)
    log = os.memfd_create("log")
    process = Program(script, *options, stdout=log, stderr=log)
    return Service(
        process=process, log=log, http_port=http_port, grpc_port=grpc_port, url=f"http://localhost:{http_port}"
    )


def wait_until_ready(service: Service) -> Service:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and service.process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{service.url}/v1/models/{NAME}", timeout=2)
            return service
        time.sleep(0.1)
    raise AssertionError(f"Not ready:\n{log_of(service)}")


def log_of(service: Service) -> str:
    return os.pread(service.log, 10_000_000, 0).decode()


def stop(service: Service):
    service.process.kill()
    service.process.wait()
    os.close(service.log)


@pytest.fixture(scope="session")
def model_dir(artefacts, tmp_path_factory) -> Path:
    """The predictor's folder as KServe's storage initializer fills it: the model alone."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.joblib").symlink_to(artefacts / "model.joblib")
    return folder


def start_transformer(artefacts: Path, predictor: Service, protocol: str, *options, **ports) -> Service:
    port = predictor.grpc_port if protocol == "grpc-v2" else predictor.http_port
    return start(
        "transformer.py",
        *("--transformer-path", artefacts / "transformer.joblib"),
        *("--predictor_host", f"localhost:{port}", "--predictor_protocol", protocol),
        *options,
        **ports,
    )


@pytest.fixture(scope="session")
def services(artefacts, model_dir):
    """The four ways to serve the model, by name; they start side by side, where a proxy is set that is none."""
    predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir)
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            environment.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            environment.delenv(name, raising=False)
        services = {protocol: start_transformer(artefacts, predictor, protocol) for protocol in ("v1", "v2", "grpc-v2")}
        services["in one process"] = start(
            "transformer.py",
            *("--transformer-path", artefacts / "transformer.joblib", "--model-path", artefacts / "model.joblib"),
        )
    started = [predictor, *services.values()]
    try:
        for service in started:
            wait_until_ready(service)
        yield services
    finally:
        for service in started:
            stop(service)


@pytest.fixture(scope="session", params=["in one process", "v1", "v2", "grpc-v2"])
def service(request, services) -> Service:
    return services[request.param]
