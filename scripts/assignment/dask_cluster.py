"""Run the pass over all documents on a Dask cluster, through joblib's own backend for it."""

import functools
import importlib.metadata
import logging
import operator
import pickle
import platform
from collections.abc import Callable, Iterator

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
    """The Dask cluster cannot be used; the message is one line that says why and what to do."""


class Backend(DaskDistributedBackend):
    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(super().effective_n_jobs(n_jobs), 2)  # one job joblib would run here, instead of on the cluster

    def apply_async(self, func, callback=None):
        """As joblib's own, which never tells of a task that Dask gave up, as after the death of several workers."""
        job = super().apply_async(func, callback)
        job.add_done_callback(lambda job: job.exception() and callback(job.exception()))
        return job


def run_on_dask(address: str, assigner: Assigner, method: str, tasks: Callable[..., Iterator]) -> Iterator:
    """Run tasks on the workers of a Dask cluster, a few at a time; a worker that dies has its tasks done by another.

    The assigner travels to each worker once, with its code.

    Args:
        tasks: makes them, given what makes a task of a list of documents.

    Raises:
        ClusterError: the scheduler is not there or goes away, or a worker does not fit.
    """
    cloudpickle.register_pickle_by_value(model)
    # they log a traceback of what is said here in a line
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def assign(documents: bytes):
        return getattr(assigner, method)(pickle.loads(documents))

    try:
        with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
            workers = check_versions(client, set())
            log.info("Dask: %d workers of %s", len(workers), address)
            # A task that unpickles it, rather than scattered data: the scheduler can have it made again elsewhere, where
            # a worker that dies while it gets scattered data stops everything.
            there = client.submit(cloudpickle.loads, cloudpickle.dumps(assign), pure=False)
            with parallel_config(Backend(client=client)):
                parallel = Parallel(return_as="generator", batch_size=1, pre_dispatch="3 * n_jobs")
            # Pickled, for the scheduler passes bytes on as they are, and would unpickle a list.
            for result in parallel(tasks(lambda documents: delayed(operator.call)(there, pickle.dumps(documents)))):
                if isinstance(result, BaseException):  # what was under way when the scheduler was lost
                    raise CommClosedError(repr(result))
                workers |= check_versions(client, workers)
                yield result
    except (OSError, TimeoutError, CommClosedError, FutureCancelledError, KilledWorker) as error:
        raise ClusterError(f"The Dask cluster {address} cannot be reached, or was lost: {error}") from error


def check_versions(client: Client, checked: set[str]) -> set[str]:
    """Check that workers have the libraries that are here: others might answer something else.

    Args:
        checked: the addresses of workers that were checked before.

    Returns:
        The addresses of the others.

    Raises:
        ClusterError: one has other libraries, which are named.
    """
    workers = client.ncores().keys() - checked
    for name, here in versions_here().items() if workers else ():
        get_version = (
            platform.python_version if name == "python" else functools.partial(importlib.metadata.version, name)
        )
        for worker, there in client.run(get_version, workers=list(workers), on_error="return").items():
            if isinstance(there, importlib.metadata.PackageNotFoundError):
                there = "none"
            elif isinstance(there, Exception):  # it went away
                workers.discard(worker)
                continue
            if not same(name, there, here):
                raise ClusterError(
                    f"Dask worker {worker} has {name} {there}, and {here} is here: install scripts/requirements.txt there."
                )
    return workers


def versions_here() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SAME_VERSIONS}


def same(name: str, one: str, other: str) -> bool:
    if name == "python":  # its third number changes nothing here
        return one.split(".")[:2] == other.split(".")[:2]
    return one == other
