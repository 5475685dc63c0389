#!/usr/bin/env python
"""Measure requests and documents per second of every way to serve the model, side by side in one run.

    python tests/bench/serving.py --artefacts DIR

DIR holds the three files of a training run. Needs wrk. Each way runs alone; wrk keeps --connections requests in
flight. The document of a request is about as long as the one in the README. "CPU ms" is the CPU time per request of
the busiest process: unlike the rates, it hardly depends on the load of the machine, and with enough cores its inverse
is the highest possible rate.
"""

import argparse
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import joblib
import psutil

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH.parent))

from support.free_port import free_port  # noqa: E402

TRANSFORMER = BENCH.parent.parent / "transformer.py"
NAME = "textclustering"
WORDS = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefacts", type=Path, default=Path("."), help="folder of a training run")
    parser.add_argument("--seconds", type=int, default=8, help="how long each measurement lasts")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 32], help="documents in a request")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder)
        (model_dir / "model.joblib").symlink_to((arguments.artefacts / "model.joblib").resolve())
        rates = {
            (way, documents): measure(way, documents, model_dir, arguments)
            for documents in arguments.documents
            for way in ("no-op", "predictor", "naive", "in one process", "two, v1", "two, v2", "two, grpc-v2")
        }
    for documents in arguments.documents:
        print(
            f"\n{documents} document(s) a request  requests/s  documents/s  / no-op  / naive   CPU ms  / no-op  / naive"
        )
        for (way, n), (rate, cpu) in rates.items():
            if n == documents:
                (noop_rate, noop_cpu), (naive_rate, naive_cpu) = rates["no-op", n], rates["naive", n]
                print(
                    f"{way:24} {rate:11.0f}  {rate * n:11.0f}  {rate / noop_rate:7.2f}  {rate / naive_rate:7.1f}"
                    f"  {cpu:7.2f}  {noop_cpu / cpu:7.2f}  {naive_cpu / cpu:7.1f}"
                )


def measure(way: str, documents: int, model_dir: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Serve one way and load it; returns requests/s, and the CPU of its busiest process in ms a request."""
    transformer_path = arguments.artefacts / "transformer.joblib"
    instances = random_texts(transformer_path, documents)
    with contextlib.ExitStack() as stack:
        if way in ("no-op",):
            port = serve(stack, BENCH / "baselines.py")
        elif way == "in one process":
            port = serve(
                stack, TRANSFORMER, "--transformer-path", transformer_path,
                "--model-path", arguments.artefacts / "model.joblib",
            )  # fmt: skip
        else:
            grpc = way.endswith("grpc-v2")
            port = serve(stack, BENCH.parent / "doubles/sklearn_predictor.py", "--model_dir", model_dir, grpc=grpc)
            if way == "predictor":
                instances = joblib.load(transformer_path).transform([text for (text,) in instances]).tolist()
            elif way == "naive":
                port = serve(
                    stack, BENCH / "baselines.py", "--transformer-path", transformer_path,
                    "--predictor_host", f"localhost:{port}",
                )  # fmt: skip
            else:
                port = serve(
                    stack, TRANSFORMER, "--transformer-path", transformer_path,
                    "--predictor_host", f"localhost:{port}", "--predictor_protocol", way.removeprefix("two, "),
                )  # fmt: skip
        rate, cpu = load(port, {"instances": instances}, arguments)
    print(f"{way}, {documents} document(s): {rate:.0f} requests/s", file=sys.stderr)
    return rate, cpu


def random_texts(transformer_path: Path, count: int) -> list[list[str]]:
    terms = joblib.load(transformer_path)[0].get_feature_names_out()
    rng = random.Random(0)
    return [[" ".join(rng.choices(terms, k=WORDS))] for _ in range(count)]


def serve(stack: contextlib.ExitStack, script: Path, *options, grpc: bool = False) -> int:
    """Start a server, wait until its model is ready, and stop it when the stack closes.

    Returns the port of its REST endpoint, or of its gRPC endpoint.
    """
    http_port, grpc_port = free_port(), free_port()
    command = [sys.executable, script, "--model_name", NAME, "--http_port", http_port, "--grpc_port", grpc_port]
    command += ["--enable_latency_logging", "false", *options]
    process = stack.enter_context(
        subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    stack.callback(process.kill)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://localhost:{http_port}/v1/models/{NAME}", timeout=1)
            return grpc_port if grpc else http_port
        if process.poll() is not None:
            sys.exit(f"{script.name} stopped with exit code {process.returncode}")
        time.sleep(0.1)
    sys.exit(f"{script.name} was not ready within 60 s")


def load(port: int, body: dict, arguments: argparse.Namespace) -> tuple[float, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [==[{json.dumps(body)}]==]\n"
        )
        script.flush()
        url = f"http://localhost:{port}/v1/models/{NAME}:predict"
        wrk = ["wrk", "--threads", "1", "--connections", str(arguments.connections), "--script", script.name]
        subprocess.run([*wrk, "--duration", "2", "--timeout", "30", url], check=True, capture_output=True)  # warm up
        servers = [child for child in psutil.Process().children() if child.name() != "wrk"]
        before = [sum(server.cpu_times()[:2]) for server in servers]
        result = subprocess.run(
            [*wrk, "--duration", str(arguments.seconds), "--timeout", "30", url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    if "Non-2xx" in result or "Socket errors" in result:
        sys.exit(f"The server answered with errors:\n{result}")
    busiest = max(sum(server.cpu_times()[:2]) - start for server, start in zip(servers, before))
    requests = int(re.search(r"(\d+) requests in", result)[1])
    return float(re.search(r"Requests/sec:\s+([\d.]+)", result)[1]), 1_000 * busiest / requests


if __name__ == "__main__":
    main()
