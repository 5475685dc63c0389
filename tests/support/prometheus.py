"""Debian's Prometheus with the configuration of the platform, but without Kubernetes: a file lists the pods."""

import contextlib
import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

PRODUCT = Path(__file__).resolve().parents[2] / "provision/prometheus"


def configure(folder: Path, pods: list[dict], jobs: tuple | None = None, interval: str | None = None) -> Path:
    """Write the platform's configuration and rules, with pods of a file in place of those of Kubernetes.

    Debian builds Prometheus without Kubernetes; what is done with the labels of the pods stays as it is.

    Args:
        jobs: the jobs to keep; all if none are named.
        interval: how often to scrape and to evaluate the rules; the product's if not given.
    """
    for path in PRODUCT.glob("*.yml"):
        shutil.copy(path, folder)
    (folder / "pods.json").write_text(json.dumps([{"targets": ["kubernetes:1"], "labels": pod} for pod in pods]))
    config = yaml.safe_load((PRODUCT / "prometheus.yml").read_text())
    config["scrape_configs"] = [job for job in config["scrape_configs"] if not jobs or job["job_name"] in jobs]
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["file_sd_configs"] = [{"files": ["pods.json"]}]
    if interval:
        config["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval}
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def pod(port: int, **labels) -> dict:
    """The labels that Prometheus' Kubernetes discovery gives a pod of deploy_service.py."""
    known = {
        "namespace": "kserve-textclustering",
        "pod_name": f"pod-{port}",
        "pod_ip": "127.0.0.1",
        "pod_phase": "Running",
        "pod_annotation_prometheus_io_scrape": "true",
        "pod_annotation_prometheus_io_port": str(port),
        "pod_annotation_prometheus_io_path": "/metrics",
        "pod_label_serving_kserve_io_inferenceservice": "textclustering",
        "pod_label_component": "transformer",
        "pod_label_app_kubernetes_io_version": "of-the-label",
    }
    return {f"__meta_kubernetes_{name}": value for name, value in (known | labels).items() if value is not None}


@contextlib.contextmanager
def discovery(folder: Path, stub):
    """Tell a Prometheus that was configured in this folder about the pods of a stub of KServe, until the end of the block."""
    stopped, known = threading.Event(), []

    def follow():
        while not stopped.wait(0.3):
            found = [labels_of(each) for each in stub.all_pods() if each.port]
            if found != known:
                known[:] = found
                (folder / "new.json").write_text(
                    json.dumps([{"targets": ["kubernetes:1"], "labels": pod} for pod in found])
                )
                (folder / "new.json").rename(folder / "pods.json")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def labels_of(stub_pod) -> dict:
    return pod(
        stub_pod.port,
        pod_name=stub_pod.name,
        namespace=stub_pod.namespace,
        pod_label_component=stub_pod.component,
        pod_label_app_kubernetes_io_version=stub_pod.template["labels"]["app.kubernetes.io/version"],
    )


@contextlib.contextmanager
def run_prometheus(config: Path, port: int, *options: str):
    """Run Prometheus until the end of the block; gives its URL."""
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={config.parent / 'data'}", *options]
    with (config.parent / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(url), 60)
        yield url
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/-/ready", timeout=2).status == 200
    except urllib.error.HTTPError as error:
        return error.code == 401  # ready, and with a login


def query(url: str, expression: str) -> list[tuple[dict, float]]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}") as response:
        return [(sample["metric"], float(sample["value"][1])) for sample in json.load(response)["data"]["result"]]


def wait_for(condition, seconds: float):
    """Repeat until the condition is true; an OSError counts as false. Returns what it was."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if result := condition():
                return result
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")
