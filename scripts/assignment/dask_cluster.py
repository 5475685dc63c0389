"""Run the pass over all documents on a Dask cluster, through joblib's own backend for it."""

import functools
import importlib.metadata
import logging
import operator
import pickle
import platform
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
from distributed import Client
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from joblib import Parallel, delayed, parallel_config
from joblib._dask import DaskDistributedBackend

import model
from failure import Failure
from model.assigner import Assigner

CONNECT_SECONDS = 10
WORKERS_SECONDS = 60
SAME_VERSIONS = ("scikit-learn", "numpy", "scipy", "joblib")

log = logging.getLogger("text_clustering")


class ClusterError(Failure):
    """The Dask cluster cannot be used; the message is one line with the cause and what to do."""


class Backend(DaskDistributedBackend):
    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(super().effective_n_jobs(n_jobs), 2)  # joblib would run a single job here instead of on the cluster

    def apply_async(self, func: Callable[[], Any], callback: Callable[[Any], None]) -> Any:
        """Submit a task; unlike joblib's own method, report tasks that Dask gave up after several workers died."""
        job: Any = super().apply_async(func, callback)
        job.add_done_callback(lambda job: callback(job.exception()) if job.exception() else None)
        return job


def run_on_dask(address: str, assigner: Assigner, method: str, tasks: Callable[..., Iterator[Any]]) -> Iterator[Any]:
    """Run tasks on the workers of a Dask cluster, a few at a time; other workers repeat the tasks of one that dies.

    The assigner is sent to each worker once, with its code.

    Args:
        tasks: yields the tasks, given a function that turns a list of documents into one.

    Raises:
        ClusterError: the scheduler cannot be reached or is lost, or a worker has other libraries.
    """
    cloudpickle.register_pickle_by_value(model)
    # they would log a traceback for what is one line here
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def assign(documents: bytes) -> Any:
        return getattr(assigner, method)(pickle.loads(documents))

    try:
        with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
            workers = check_versions(client, set())
            log.info("Dask: %d workers of %s", len(workers), address)
            # A task that unpickles it, rather than scattered data: the scheduler can repeat a task on another worker,
            # while a worker that dies with scattered data stops everything.
            there = client.submit(cloudpickle.loads, cloudpickle.dumps(assign), pure=False)
            with parallel_config(Backend(client=client)):
                parallel = Parallel(return_as="generator", batch_size=1, pre_dispatch="3 * n_jobs")
            # Pickled, because the scheduler passes bytes on as they are but unpickles lists.
            for result in parallel(tasks(lambda documents: delayed(operator.call)(there, pickle.dumps(documents)))):
                if isinstance(result, BaseException):  # in progress when the scheduler was lost
                    raise CommClosedError(repr(result))
                workers |= check_versions(client, workers)
                yield result
    except (OSError, TimeoutError, CommClosedError, FutureCancelledError, KilledWorker) as error:
        raise ClusterError(f"The Dask cluster {address} cannot be reached, or was lost: {error}") from error


def check_versions(client: Client, checked: set[str]) -> set[str]:
    """Check that workers have the same libraries as this process: others might assign differently.

    Args:
        checked: the addresses of workers that were checked before.

    Returns:
        The addresses of the others.

    Raises:
        ClusterError: a worker has another version of a library.
    """
    workers = set(client.ncores()) - checked
    for name, here in versions_here().items() if workers else ():
        get_version = (
            platform.python_version if name == "python" else functools.partial(importlib.metadata.version, name)
        )
        for worker, there in client.run(get_version, workers=list(workers), on_error="return").items():
            if isinstance(there, importlib.metadata.PackageNotFoundError):
                there = "none"
            elif isinstance(there, Exception):  # it left the cluster
                workers.discard(worker)
                continue
            if not same(name, there, here):
                raise ClusterError(
                    f"Dask worker {worker} has {name} {there}, this process {here}: install scripts/requirements.txt there."
                )
    return workers


def versions_here() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SAME_VERSIONS}


def same(name: str, one: str, other: str) -> bool:
    if name == "python":  # its patch number makes no difference
        return one.split(".")[:2] == other.split(".")[:2]
    return one == other
