#!/usr/bin/env python
"""Replay traffic through two servers under a real Prometheus with the platform's rules, and print when alerts fire.

    python tests/bench/drift.py [--work DIR]

Two models, stable and canary, are trained on four fifths of the posts of 20 Newsgroups with different seeds. Two real
transformers serve them, and Prometheus scrapes both as on the platform. The unseen posts are sent to them, two requests
to stable for each one to the canary:

    1  posts only                                           no alert may fire
    2  a third of the texts are AWS documentation           both versions drift, within five minutes
    3  posts only again                                     no alert, once the others have left the window
    4  a third of the canary's texts are AWS documentation  only the canary drifts
    5  posts only again

Takes about half an hour, and needs prometheus. --work keeps models, data and logs in a folder, and re-uses its models.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT / "scripts")]
OPTIONS = sys.argv[1:]  # conftest removes them, because KServe would parse them

from corpus.source import load_corpus  # noqa: E402
from support.free_port import free_port  # noqa: E402
from support.prometheus import configure, pod, query, run_prometheus  # noqa: E402
from support.services import NAME, start, stop, wait_until_ready  # noqa: E402

SEEDS = {"stable": 0, "canary": 1}
REQUESTS_PER_SECOND = {"stable": 2, "canary": 1}
DOCUMENTS_PER_REQUEST = 4
LONGEST_PHASE = 480


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder for models, data and logs (default: a temporary one)")
    parser.add_argument("--data-home", help="where scikit-learn keeps 20 Newsgroups (default: its own cache)")
    arguments = parser.parse_args(OPTIONS)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seen, unseen = divide(load_corpus("20newsgroups", arguments.data_home).documents)
        others = load_corpus("aws-docs", None).documents
        services = {name: serve(stack, train(work / name, seen, seed)) for name, seed in SEEDS.items()}
        pods = [pod(service.http_port, pod_name=name) for name, service in services.items()]
        config = configure(work, pods, ("services",))
        url = stack.enter_context(run_prometheus(config, free_port()))
        traffic = {name: Traffic(service.url, unseen, others) for name, service in services.items()}
        for name, sender in traffic.items():
            stack.enter_context(sender.sending(REQUESTS_PER_SECOND[name]))
        replay(url, traffic)


def divide(documents: list[str]) -> tuple[list[str], list[str]]:
    documents = random.Random(0).sample(documents, len(documents))
    return documents[len(documents) // 5 :], documents[: len(documents) // 5]


def train(folder: Path, documents: list[str], seed: int) -> Path:
    if not (folder / "clusters.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        corpus = folder / "posts.jsonl"
        corpus.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
        command = [sys.executable, ROOT / "scripts/text_clustering.py", "--dataset", corpus, "--seed", seed]
        command += ["--lsa", 100, "--output-dir", folder]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return folder


def serve(stack: contextlib.ExitStack, folder: Path):
    options = ("--transformer-path", folder / "transformer.joblib", "--model-path", folder / "model.joblib")
    service = start("transformer.py", *options, "--enable_latency_logging", "false")
    stack.callback(stop, service)
    return wait_until_ready(service)


class Traffic:
    """Send documents to one server, a share of them from another corpus."""

    def __init__(self, url: str, documents: list[str], others: list[str]):
        self.url, self.documents, self.others, self.share = f"{url}/v1/models/{NAME}:predict", documents, others, 0
        self.stopped = threading.Event()

    @contextlib.contextmanager
    def sending(self, requests_per_second: float):
        thread = threading.Thread(target=self.send, args=(requests_per_second,))
        thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            thread.join()

    def send(self, requests_per_second: float):
        rng = random.Random(0)
        while not self.stopped.wait(rng.expovariate(requests_per_second)):
            texts = [
                rng.choice(self.others if rng.random() < self.share else self.documents)
                for _ in range(DOCUMENTS_PER_REQUEST)
            ]
            body = json.dumps({"instances": texts}).encode()
            request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                response.read()


def replay(url: str, traffic: dict[str, Traffic]):
    phase(url, traffic, "1  posts only", {}, lambda firing, seconds: seconds > 300)
    names = {name: version_of(url, name) for name in traffic}
    log(f"stable is {names['stable']}, canary is {names['canary']}")

    both = set(names.values())
    phase(url, traffic, "2  a third is AWS documentation", {"stable": 1 / 3, "canary": 1 / 3},
          lambda firing, _: drifted(firing) == both)  # fmt: skip
    show(url)
    phase(url, traffic, "3  posts only again", {}, lambda firing, _: not firing)
    phase(url, traffic, "4  a third is AWS documentation, of the canary's texts", {"canary": 1 / 3},
          lambda firing, _: names["canary"] in drifted(firing))  # fmt: skip
    show(url)
    phase(url, traffic, "5  posts only again", {}, lambda firing, _: not firing)


def phase(url: str, traffic: dict[str, Traffic], title: str, shares: dict, finished):
    """Send until finished(firing alerts, seconds) is true, and print every change of the alerts."""
    log(title)
    for name, sender in traffic.items():
        sender.share = shares.get(name, 0)
    started, before = time.monotonic(), firing_now(url)
    while True:
        seconds, firing = time.monotonic() - started, firing_now(url)
        for what, alerts in (("firing", firing - before), ("resolved", before - firing)):
            for name, version, window in sorted(alerts):
                log(f"    after {seconds:3.0f} s {what}: {name} {version} ({window})")
        before = firing
        if finished(firing, seconds):
            log(f"    done after {seconds:.0f} s; firing: {len(firing)}")
            return
        if seconds > LONGEST_PHASE:
            sys.exit(f"not as expected after {seconds:.0f} s; firing: {sorted(firing)}")
        time.sleep(2)


def firing_now(url: str) -> set[tuple]:
    """Return name, version and window of every firing alert."""
    alerts = query(url, 'ALERTS{alertstate="firing"}')
    return {tuple(labels.get(name, "") for name in ("alertname", "version", "window")) for labels, _ in alerts}


def drifted(firing: set[tuple]) -> set[str]:
    return {version for name, version, _ in firing if name == "TextsHaveDrifted"}


def version_of(url: str, pod_name: str) -> str:
    ((labels, _),) = query(url, f'textclustering_trained_share{{pod="{pod_name}",cluster="-1"}}')
    return labels["version"]


def show(url: str):
    subprocess.run([sys.executable, ROOT / "scripts/drift.py", "--prometheus", url, "--clusters", "6"], check=True)


def log(message: str):
    print(time.strftime("%H:%M:%S"), message, flush=True)


if __name__ == "__main__":
    main()
