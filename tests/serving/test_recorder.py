"""recorder.py behind KServe's real agent, in front of a real store: a store in trouble costs no request."""

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import recorder
from corpus.source import Options, Source
from deployment.manifests import RECORDED_HEADERS
from support.free_port import free_port
from support.stores import wait_for

ROOT = Path(__file__).resolve().parents[2]


class Model(BaseHTTPRequestHandler):
    """The server behind the agent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def run(command, log, **environment):
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=log.open("w"), stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def run_alone(lock, *arguments, **environment):
    """Run an agent while no other test does: all listen on the same abstract socket."""
    fcntl.flock(lock, fcntl.LOCK_EX)
    with run(*arguments, **environment) as process:
        yield process


@contextlib.contextmanager
def run_recorder(store_url, bucket, folder, interval=60):
    port = free_port()
    command = [sys.executable, ROOT / "recorder.py", "--store", store_url, "--bucket", bucket]
    command += ["--prefix", "demo/textclustering/", "--port", str(port), "--interval", str(interval)]
    keys = {"AWS_ACCESS_KEY_ID": "weedkey", "AWS_SECRET_ACCESS_KEY": "weedsecret"}
    with run(command, folder / "recorder.log", **keys) as process:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield process, port


@contextlib.contextmanager
def run_agent(recorder_port, folder):
    """KServe's agent with the arguments that its webhook gives it. Yields its port."""
    binary = os.environ.get("KSERVE_AGENT_BINARY") or shutil.which("kserve-agent")
    if not binary:
        pytest.skip("no agent of KServe: build cmd/agent of github.com/kserve/kserve@v0.20.0, set KSERVE_AGENT_BINARY")
    model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    Thread(target=model.serve_forever, args=(0.05,), daemon=True).start()
    port = free_port()
    command = [binary, "--port", str(port), "--component-port", str(model.server_port), "--log-mode", "request"]
    command += ["--log-url", f"http://127.0.0.1:{recorder_port}", "--metadata-headers", ",".join(RECORDED_HEADERS)]
    command += ["--source-uri", "pod-1", "--inference-service", "textclustering", "--namespace", "demo"]
    probe = json.dumps({"tcpSocket": {"port": model.server_port, "host": "127.0.0.1"}})
    with (
        Path(tempfile.gettempdir(), "kserve-agent.lock").open("w") as lock,
        run_alone(lock, command, folder / "agent.log", SERVING_READINESS_PROBE=probe) as process,
    ):
        wait_for(f"http://127.0.0.1:{port}", process)
        yield port
    model.shutdown()
    model.server_close()


def send(port, text, timeout=5, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/models/m:predict", json.dumps({"instances": [text]}), headers)
        response = connection.getresponse()
        response.read()
        return response.status


def event(port, text):
    """An event as the agent sends it."""
    return send(port, text, **{"Ce-Type": "org.kubeflow.serving.inference.request", "Ce-Time": "2026-11-29T22:00:00Z"})


def recorded(store):
    source = Source(f"s3://{store.bucket}/demo/textclustering/", options=Options(s3_endpoint=store.url))
    texts = [text for batch in source.batches() for text in batch.documents]
    return texts, dict(+source.findings.left_out)


@pytest.fixture
def bucket(store, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.keys[1])
    store.s3.create_bucket(Bucket=store.bucket)
    return store


def test_requests_through_kserves_agent_become_a_corpus(bucket, tmp_path):
    with run_recorder(bucket.url, bucket.bucket, tmp_path) as (process, port), run_agent(port, tmp_path) as agent:
        for text in ("The goalie stopped the puck", "A rocket in orbit"):
            assert send(agent, text) == 200
        assert send(agent, "of a deployment", **{"Smoke-Test": "true"}) == 200
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    texts, left_out = recorded(bucket)
    assert sorted(texts) == ["A rocket in orbit", "The goalie stopped the puck"] and left_out == {"smoke tests": 1}
    assert len(bucket.list()) == 1


def test_what_arrives_while_a_pod_ends_is_written(bucket, tmp_path):
    with run_recorder(bucket.url, bucket.bucket, tmp_path) as (process, port):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert event(port, "the last request") == 200
        assert process.wait(20) == 0
    assert recorded(bucket)[0] == ["the last request"]


def test_a_store_that_does_not_answer_costs_no_request_and_little_memory(tmp_path):
    """With the agent's own S3 logger 121 of 600 requests get through, and the others wait until the store answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with run_recorder(url, "b", tmp_path, interval=0.1) as (process, port), run_agent(port, tmp_path) as agent:
            with ThreadPoolExecutor(8) as clients:
                assert set(clients.map(lambda n: send(agent, f"{n} " + "long text " * 10_000), range(400))) == {200}
            memory = Path(f"/proc/{process.pid}/status").read_text()
            peak = int(memory.partition("VmHWM:")[2].split()[0]) / 1024
    assert peak < 128, f"{peak:.0f} MiB, and the container gets 128"


def test_a_full_buffer_drops_and_counts_the_newest_requests(monkeypatch):
    monkeypatch.setattr(recorder, "BUFFER_BYTES", 30)
    buffer = recorder.Buffer()
    for record in (b'{"n": 1}', b'{"n": 2}', b'{"n": 3}', b'{"n": 4}'):
        buffer.add(record)
    assert (buffer.take(), buffer.dropped, buffer.bytes) == ([b'{"n": 1}', b'{"n": 2}', b'{"n": 3}'], 1, 0)
