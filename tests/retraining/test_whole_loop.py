"""The whole loop: real Prometheus with the platform's rules, S3 server, trainings, predictors and transformers.

The cluster is the stub of KServe. Scraping and rules run at a second instead of 15 s, and alerts after 5 s.
"""

import base64
import json
import random
import re
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest

import retrain as program
from retraining.analysis import Limits
from retraining.canary import Watch
from support.deployment import stub_kserve, succeeded, traffic, version
from support.free_port import free_port
from support.prometheus import configure, discovery, query, run_prometheus, wait_for
from support.retraining import decided, run_retrain, service_options
from support.services import run_training

pytestmark = pytest.mark.system("prometheus")

GROUPS = 20
DRIFTED = 'ALERTS{alertstate="firing",alertname="TextsHaveDrifted"}'
DOCUMENTS_PER_REQUEST = 4


def words_of(group: int) -> list[str]:
    """Ten words that no other group has."""
    return ["".join("bdfgklmnpr"[int(digit)] + "a" for digit in f"{group:02}{n}") for n in range(10)]


def post(rng: random.Random, group: int) -> str:
    return " ".join(rng.choices(words_of(group), k=12) + rng.choices(["please", "thanks", "hello"], k=2))


class Clients:
    """Send posts through the gateway, and remember them as a service that records its requests does."""

    def __init__(self, ingress, host):
        self.url, self.host = f"{ingress}/v1/models/textclustering:predict", host
        self.newcomers = False  # whether a third of the posts is of the twentieth group
        self.texts, self.statuses = [], []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.send, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()

    def send(self):
        rng = random.Random(0)
        while not self.stopped.wait(0.05):
            groups = [
                GROUPS - 1 if self.newcomers and rng.random() < 1 / 3 else rng.randrange(GROUPS - 1)
                for _ in range(DOCUMENTS_PER_REQUEST)
            ]
            texts = [post(rng, group) for group in groups]
            self.statuses.append(self.ask(texts)[0])
            self.texts += texts

    def ask(self, texts):
        body = json.dumps({"instances": texts}).encode()
        request = urllib.request.Request(self.url, body, {"Host": self.host, "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)["predictions"]
        except urllib.error.HTTPError as error:
            return error.code, []


@pytest.fixture
def prometheus(tmp_path):
    """Prometheus without pods; gives its URL and its folder."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    config = configure(folder, [], ("services",), "1s")
    rules = folder / "drift.yml"
    rules.write_text(rules.read_text().replace("for: 1m", "for: 5s"))

    with run_prometheus(config, free_port()) as url:
        yield url, folder


def test_a_new_topic_is_noticed_learned_and_served_without_a_person(
    deploy, cluster, store, prometheus, tmp_path, monkeypatch
):
    url, folder = prometheus
    before, model = tmp_path / "before.jsonl", tmp_path / "model"
    rng = random.Random(1)
    before.write_text("".join(json.dumps({"text": post(rng, n % 19)}) + "\n" for n in range(19 * 60)))
    assert run_training("--dataset", before, "--clusters", 19, "--lsa", 30, "--output-dir", model).returncode == 0
    for name, value in {
        "AWS_ACCESS_KEY_ID": store.keys[0],
        "AWS_SECRET_ACCESS_KEY": store.keys[1],
        "KUBECONFIG": str(cluster.kubeconfig),
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(program, "Watch", lambda duration: Watch(duration, 4, Limits(requests=3)))

    with stub_kserve(cluster, tmp_path, serve=True) as stub:
        stable = version(succeeded(deploy(model, ingress=stub.ingress, timeout=240)))
        host = f"textclustering.{cluster.namespace}.example.com"
        with discovery(folder, stub), Clients(stub.ingress, host) as clients:
            wait_for(lambda: query(url, "sum(textclustering_documents_total) > 400"), 60)
            assert not query(url, DRIFTED), "posts of the nineteen groups are what the model was trained on"
            options = [*service_options(cluster, store, stub.ingress), "--prometheus", url, "--min-new", 300]
            recorded = f"s3://{store.bucket}-requests/"
            # With the old corpus: how many requests there are depends on the machine, and on a few alone numbers change.
            options += ["--dataset", before, recorded, "--s3-endpoint", store.url, "--canary", 50, "--analyse", "12s"]
            numbers = dict(zip(range(19), clients.ask([post(rng, group) for group in range(19)])[1]))
            assert sorted(numbers.values()) == list(range(19))

            clients.newcomers, since = True, len(clients.texts)
            wait_for(lambda: query(url, DRIFTED) and len(clients.texts) > since + 600, 60)
            record(store, clients.texts[since:])
            message = decided(done := run_retrain(*options))
            promoted = re.match(r"promoted (v\w{12}):", message)[1]
            assert traffic(cluster) == {promoted: 100} and promoted != stable, done.err
            _, after = clients.ask([post(rng, group) for group in range(20)])
            assert dict(enumerate(after)) == numbers | {19: 19}, (
                "a new number for the new topic, the old ones for the others"
            )
        assert set(clients.statuses) == {200}, "no request failed meanwhile"


def record(store, texts):
    """Write the requests of now into the bucket as KServe's logger does (corpus/recorded_requests.py)."""
    bucket = f"{store.bucket}-requests"
    store.s3.create_bucket(Bucket=bucket)
    records = [
        {
            "bytes": base64.b64encode(json.dumps({"instances": [text]}).encode()).decode(),
            "contentType": "application/json",
            "reqType": "org.kubeflow.serving.inference.request",
            "occurrenceTime": datetime.now(UTC).isoformat(),
        }
        for text in texts
    ]
    store.s3.put_object(Bucket=bucket, Key="requests.json", Body=json.dumps(records).encode())
