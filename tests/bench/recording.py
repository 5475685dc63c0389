#!/usr/bin/env python
"""Measure what recording requests costs: requests/s, latency and memory, with the store in every kind of trouble.

    KSERVE_AGENT_BINARY=... python tests/bench/recording.py --artefacts DIR

DIR holds the three files of a training run. Needs wrk, and KServe's agent: build cmd/agent of
github.com/kserve/kserve@v0.20.0. The store is SeaweedFS. The last way is KServe's own S3 logger, which deploy_service.py
does not use.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH.parent.parent / "scripts")]

from deployment.manifests import RECORDED_HEADERS  # noqa: E402
from serving import NAME, TRANSFORMER, random_texts, serve  # noqa: E402
from support.free_port import free_port  # noqa: E402
from support.stores import STORE_USERS, run_weed, wait_for  # noqa: E402

RECORDER = BENCH.parent.parent / "recorder.py"
KEYS = STORE_USERS[0]["credentials"][0]
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEYS["accessKey"], "AWS_SECRET_ACCESS_KEY": KEYS["secretKey"]}
WAYS = ("not recorded", "recorded", "store down", "store silent", "recorder stopped", "S3 logger, silent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefacts", type=Path, default=Path("."), help="folder of a training run")
    parser.add_argument("--seconds", type=int, default=10, help="how long each measurement lasts")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--ways", nargs="+", default=WAYS, metavar="WAY", help=", ".join(WAYS))
    arguments = parser.parse_args()
    print("way                 requests/s  p50 ms  p99 ms  failed   agent MiB  recorder MiB  objects")
    with tempfile.TemporaryDirectory() as folder, run_weed(Path(folder)) as weed, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        urls = {"recorded": weed.url, "store down": "http://127.0.0.1:1"}
        for way in arguments.ways:
            bucket = new_bucket(weed.url)
            url = urls.get(way, f"http://127.0.0.1:{silent.getsockname()[1]}")
            measure(way, url, bucket, arguments)


def measure(way: str, store: str, bucket: str, arguments: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        transformer_path = arguments.artefacts / "transformer.joblib"
        model = ("--transformer-path", transformer_path, "--model-path", arguments.artefacts / "model.joblib")
        port = serve(stack, TRANSFORMER, *model)
        body = json.dumps({"instances": random_texts(transformer_path, 1)})
        agent = recorder = None
        if way.startswith("S3 logger"):
            agent, port = stack.enter_context(run_agent(port, ["--log-url", f"s3://{bucket}", *S3_LOGGER], store))
        elif way != "not recorded":
            recorder, sink = stack.enter_context(run_recorder(store, bucket))
            agent, port = stack.enter_context(run_agent(port, ["--log-url", f"http://127.0.0.1:{sink}"], store))
        load(port, body, 2, arguments.connections)  # warm up
        if way == "recorder stopped":
            recorder.send_signal(signal.SIGSTOP)
        rate, p50, p99, failed = load(port, body, arguments.seconds, arguments.connections)
        memory = [f"{peak(process):.0f}" if process else "-" for process in (agent, recorder)]
        objects = "-"
        if way == "recorded":
            recorder.send_signal(signal.SIGTERM)
            recorder.wait(30)
            objects = str(len(client(store).list_objects_v2(Bucket=bucket).get("Contents", [])))
    print(f"{way:18} {rate:11.0f} {p50:7.1f} {p99:7.1f} {failed:7}  {memory[0]:>10}  {memory[1]:>12}  {objects:>7}")


S3_LOGGER = ["--log-store-path", "requests", "--log-batch-size", "100", "--log-batch-interval", "10s"]


@contextlib.contextmanager
def run_recorder(store: str, bucket: str) -> Iterator[tuple[subprocess.Popen, int]]:
    port = free_port()
    options = ["--store", store, "--bucket", bucket, "--prefix", "demo/", "--port", str(port), "--interval", "5"]
    with run([sys.executable, str(RECORDER), *options], port) as process:
        yield process, port


@contextlib.contextmanager
def run_agent(component: int, options: list[str], store: str) -> Iterator[tuple[subprocess.Popen, int]]:
    port, marshaller = free_port(), free_port()
    probe = {"tcpSocket": {"port": component, "host": "127.0.0.1"}}
    environment = {"SERVING_READINESS_PROBE": json.dumps(probe), "AWS_ENDPOINT_URL": store}
    command = [os.environ["KSERVE_AGENT_BINARY"], "--port", str(port), "--component-port", str(component)]
    command += ["--log-mode", "request", "--source-uri", "pod", "--inference-service", NAME, "--namespace", "demo"]
    command += ["--metadata-headers", ",".join(RECORDED_HEADERS), "--log-marshaller-port", str(marshaller)]
    command += ["--log-marshaller-url", f"http://localhost:{marshaller}/marshal", *options]
    with run(command, port, AWS_DEFAULT_REGION="us-east-1", **environment) as process:
        yield process, port


@contextlib.contextmanager
def run(command: list[str], port: int, **environment: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield process
    finally:
        process.kill()
        process.wait()


def load(port: int, body: str, seconds: int, connections: int) -> tuple[float, float, float, int]:
    """Returns requests/s, p50 and p99 in ms, and the requests that failed or were not answered within 5 s."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [==[{body}]==]\n"
            "done = function(summary, latency, requests)\n"
            "  local errors = summary.errors\n"
            '  io.write(string.format("p50 %d p99 %d failed %d\\n", latency:percentile(50), latency:percentile(99),\n'
            "    errors.connect + errors.read + errors.write + errors.status + errors.timeout))\nend\n"
        )
        script.flush()
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", str(seconds)]
        command += ["--timeout", "5", "--script", script.name, f"http://127.0.0.1:{port}/v1/models/{NAME}:predict"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    p50, p99, failed = map(int, re.search(r"p50 (\d+) p99 (\d+) failed (\d+)", output).groups())
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]), p50 / 1000, p99 / 1000, failed


def peak(process: subprocess.Popen) -> float:
    """The largest resident memory of a process so far, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def client(url: str):
    names = ("aws_access_key_id", "aws_secret_access_key")
    keys = dict(zip(names, ENVIRONMENT.values()))
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


def new_bucket(url: str) -> str:
    name = f"requests-{time.time_ns()}"
    client(url).create_bucket(Bucket=name)
    return name


if __name__ == "__main__":
    main()
