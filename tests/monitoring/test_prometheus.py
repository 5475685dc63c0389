"""provision/prometheus/ and scripts/drift.py: Debian's promtool and Prometheus with the platform's own configuration."""

import http.server
import math
import os
import re
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import prometheus_client
import pytest
import yaml

from drift import figure
from model.clusters import described_clusters
from prometheus import Prometheus, Version
from retraining.analysis import fetch_figures
from serving.metrics import RECENT_TEXTS, Metrics
from support.free_port import free_port
from support.programs import ROOT
from support.prometheus import PRODUCT, configure, pod, query, run_prometheus, wait_for

pytestmark = pytest.mark.system("prometheus")

PASSWORD = "correct-horse-battery"
PASSWORD_HASH = "$2b$04$abcdefghijklmnopqrstuupOWRSKKNe562z1DsLEArFuJDHVyRIMa"  # bcrypt
RULES = [PRODUCT / "drift.yml", PRODUCT / "platform.yml"]
VECTORS = {0: [1.0, 0.0], 7: [0.0, 1.0]}
SUMMARY = {
    "settings": {"sample": 40},
    "baseline": {
        "unknown": 0.1,
        "rejected": {"0.9": 0.1},
        "similarity": {"0.05": 0.5, "0.25": 0.8, "0.5": 0.9, "0.75": 0.95, "0.95": 0.99},
    },
    "clusters": [
        {
            "cluster": 7,
            "size": 30,
            "share": 0.75,
            "terms": [["orbit", 0.5], ["moon", 0.4], ["nasa", 0.3], ["launch", 0.2]],
        },
        {"cluster": 0, "size": 10, "share": 0.25, "name": "hockey", "terms": [["game", 0.5]]},
    ],
}
for cluster in SUMMARY["clusters"]:
    cluster |= {"similarity": {"0.5": 0.9}, "centroid": VECTORS[cluster["cluster"]]}


def promtool(*arguments, cwd=ROOT) -> str:
    run = subprocess.run(["promtool", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def alerts() -> list[dict]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_configuration_and_rules_are_valid(tmp_path):
    promtool("check", "config", "--syntax-only", configure(tmp_path, [pod(1)]))  # the token is in a pod only
    promtool("check", "rules", *RULES)


@pytest.mark.parametrize("name", ["drift", "platform"])
def test_rules_fire_and_stay_silent_as_their_unit_tests_say(name):
    assert "SUCCESS" in promtool("test", "rules", f"{name}.yml", cwd=ROOT / "tests/monitoring/rules")


def test_rules_use_metrics_that_the_servers_export(watched):
    import kserve.metrics  # noqa: F401

    exposed = {sample for family in prometheus_client.REGISTRY.collect() for sample in names(family)}
    asked = set(re.findall(r"(?:textclustering|request)_\w+", " ".join(path.read_text() for path in RULES)))
    assert asked - {"textclustering_trained_"} <= exposed


def names(family) -> list[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
    return [family.name + suffix for suffix in suffixes]


def test_every_alert_has_a_section_for_the_operator():
    page = (ROOT / "docs/monitoring.md").read_text()
    for alert in alerts():
        document, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert document == "docs/monitoring.md" and anchor == alert["alert"].lower()
        assert f"### {alert['alert']}\n" in page


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Run Prometheus and a pod that exports the metrics of a model; yields its URL and the metrics."""
    port = free_port()
    server, thread = prometheus_client.start_http_server(port, "127.0.0.1")
    metrics = Metrics("watched", "v1", described_clusters(SUMMARY), SUMMARY, min_similarity=0.9)
    pods = [
        pod(port),
        pod(port, pod_container_port_number="9091"),
        pod(port, pod_name="done", pod_phase="Succeeded"),
        pod(port, pod_name="not annotated", pod_annotation_prometheus_io_scrape=None),
        pod(port, pod_name="of no service", pod_label_serving_kserve_io_inferenceservice=None),
    ]
    config = configure(tmp_path_factory.mktemp("prometheus"), pods, ("services",), "1s")
    with run_prometheus(config, free_port()) as url:
        yield url, metrics
    server.shutdown()
    thread.join()


def test_pods_are_discovered_by_their_annotations_and_named_by_their_labels(watched):
    url, _ = watched
    ((labels, _),) = wait_for(lambda: query(url, "up == 1"), 30)
    port = urllib.parse.urlsplit(f"//{labels['instance']}").port
    assert labels | {"instance": ""} == {
        "__name__": "up",
        "instance": "",
        "job": "services",
        "namespace": "kserve-textclustering",
        "pod": f"pod-{port}",
        "service": "textclustering",
        "component": "transformer",
        "version": "of-the-label",
    }
    # The version in a transformer's metrics takes precedence over the label of its pod.
    ((labels, share),) = wait_for(lambda: query(url, 'textclustering_trained_share{cluster="7"}'), 30)
    assert (labels["version"], labels["about"], share) == ("v1", "orbit, moon, nasa", pytest.approx(0.9 * 0.75))


def test_drift_shows_which_clusters_grow_and_which_shrink(watched):
    url, metrics = watched
    for _ in range(4):  # over some scrapes
        before = query(url, "sum(textclustering_documents_total)")
        metrics.observe(np.zeros(20, int), np.array([1.0] * 15 + [0.8] * 5), range(20))
        wait_for(lambda before=before: query(url, "sum(textclustering_documents_total)") > before, 30)
    wait_for(lambda: query(url, 'textclustering:documents{window="1h",cluster="0"} > 40'), 30)
    rejected = r"\n  rejected by --min-similarity +9.0% +25.0% +25.0%\n"  # once all rules have seen the last scrape

    def show():
        shown = drift("--prometheus", url, "--clusters", "2").stdout
        return re.search(rejected, shown) and shown

    shown = wait_for(show, 30)
    assert "watched v1 in kserve-textclustering" in shown
    assert re.search(r"\n  median similarity +0.900 +0.9\d\d +0.9\d\d\n", shown)
    grown, shrunk = re.search(r"\n( +0 hockey .*)\n( +7 orbit, moon, nasa .*)\n +1 more changed", shown).groups()
    assert re.fullmatch(r" +0 hockey +22.5% +100.0% +100.0% +\+77.5", grown)
    assert re.fullmatch(r" +7 orbit, moon, nasa +67.5% +0.0% +0.0% +-67.5", shrunk)


def test_the_analysis_of_a_canary_gets_the_figures_of_one_version(watched):
    from kserve.metrics import POST_HIST_TIME, PRE_HIST_TIME, PREDICT_HIST_TIME

    url, _ = watched
    for number in range(4):  # over some scrapes; of 60 requests 20 fail in preprocess, and 4 in predict
        for stage, seconds, count in (
            (PRE_HIST_TIME, 0.02, 60),
            (PREDICT_HIST_TIME, 0.2, 40),
            (POST_HIST_TIME, 0.02, 36),
        ):
            for _ in range(count):
                stage.labels("watched").observe(seconds)
        received = f"sum(request_preprocess_seconds_count) >= {60 * number + 60}"
        wait_for(lambda expression=received: query(url, expression), 30)
    client, version = Prometheus(url), Version("kserve-textclustering", "textclustering", "of-the-label")
    figures = fetch_figures(client, "transformer", version, 30)
    assert figures.requests > 100 and figures.failed / figures.requests == pytest.approx(0.4, abs=0.04)
    assert 0.2 < figures.p99_at_least <= figures.p99 < 0.4 and figures.drift == {}
    nothing = fetch_figures(client, "transformer", version._replace(version="v9"), 30)
    assert nothing[:2] == (0, 0) and math.isnan(nothing.p99)


def test_unreachable_prometheus_is_one_line(tmp_path):
    run = drift("--prometheus", f"http://127.0.0.1:{free_port()}")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert "drift.py: Prometheus does not respond" in run.stderr


def test_a_repeated_text_is_counted_once(watched):
    _, metrics = watched
    before = metrics.distinct
    for text_hash in (1_000, 1_001, 1_000, 1_001, 1_000):  # a health probe with two texts
        metrics.observe(np.zeros(1, int), np.ones(1), [text_hash])
    assert metrics.distinct == before + 2
    metrics.count_distinct(range(2_000, 4_000))
    assert metrics.distinct == before + 2 + 2_000 and len(metrics.recent) == RECENT_TEXTS


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Run Prometheus with a login, which it checks itself; yields its URL."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "web.yml").write_text(f"basic_auth_users: {{operator: '{PASSWORD_HASH}'}}\n")
    config = configure(folder, [], ("services",))
    with run_prometheus(config, free_port(), f"--web.config.file={folder / 'web.yml'}") as url:
        yield url


@pytest.mark.parametrize(
    ("login", "message"),
    [
        ({}, "requires a login: set PROMETHEUS_USER and PROMETHEUS_PASSWORD"),
        ({"PROMETHEUS_USER": "operator", "PROMETHEUS_PASSWORD": "wrong-" + PASSWORD}, "rejects the login"),
        ({"PROMETHEUS_USER": "operator", "PROMETHEUS_PASSWORD": PASSWORD}, "has no metrics of a service"),
    ],
)
def test_login_of_prometheus_comes_from_the_environment(guarded, login, message):
    run = drift("--prometheus", guarded, **login)
    assert run.returncode == 1 and message in run.stderr and run.stderr.count("\n") == 1
    assert PASSWORD not in run.stdout + run.stderr


@pytest.mark.parametrize("url", ["http://operator:{}@localhost:9090", "operator:{}@localhost:9090", "https://a@b/{}"])
def test_password_in_the_url_is_rejected_and_not_printed(url):
    run = drift("--prometheus", url.format(PASSWORD))
    assert run.returncode == 2 and "PROMETHEUS_PASSWORD" in run.stderr and PASSWORD not in run.stdout + run.stderr


def test_login_page_is_named_and_gets_no_password(tmp_path):
    """A proxy that redirects to its login page, on another address."""
    received = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            received.append((self.path.partition("?")[0], self.headers["Authorization"]))
            self.send_response(200 if self.path == "/login" else 302)
            self.send_header("Content-Type", "text/html")
            self.send_header("Location", f"http://localhost:{self.server.server_port}/login")
            self.end_headers()
            self.wfile.write(b"<html><form>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        run = drift(
            "--prometheus", f"http://127.0.0.1:{proxy.server_port}", PROMETHEUS_USER="a", PROMETHEUS_PASSWORD=PASSWORD
        )
        proxy.shutdown()
        thread.join()
    assert run.returncode == 1 and "login page" in run.stderr and run.stderr.count("\n") == 1
    assert received == [("/api/v1/query", received[0][1]), ("/login", None)] and received[0][1].startswith("Basic ")


def test_figures_without_documents_are_left_out():
    assert [figure(value, ".3f") for value in (0.1, None, math.nan, math.inf, -math.inf)] == [
        "0.100",
        "-",
        "-",
        "-",
        "-",
    ]


def drift(*options, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts/drift.py", *options]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, env=os.environ | environment)
