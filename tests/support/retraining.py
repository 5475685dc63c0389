"""Run retrain.py's main in this process."""

from types import SimpleNamespace

import retrain
from support.run_here import run_here


def run_retrain(*arguments) -> SimpleNamespace:
    """The exit status, standard output and log of a run."""
    return run_here(retrain.main, arguments)


def service_options(cluster, store, ingress) -> list[str]:
    """The options that name a service of a test."""
    return [
        *("--namespace", cluster.namespace, "--bucket", store.bucket, "--minio-endpoint", store.url),
        *("--minio-endpoint-cluster", store.url.split("//")[1], "--share-keys", "--ingress", ingress),
    ]


def decided(done) -> str:
    """The decision that a run has logged in its only line about it."""
    lines = [line for line in done.err.splitlines() if "Decision: " in line]
    assert done.code == 0 and len(lines) == 1, done.err
    return lines[0].partition("Decision: ")[2]
