"""Run retrain.py's main in this process."""

import contextlib
import io
import logging
import signal
from types import SimpleNamespace

import retrain


def run_retrain(*arguments) -> SimpleNamespace:
    """The exit status, standard output and log of a run."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            retrain.main([str(word) for word in arguments])
        except SystemExit as exited:
            code = exited.code
        finally:
            logging.getLogger().handlers.clear()
            for number, handler in handlers:
                signal.signal(number, handler)
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


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
