"""Run the pass over all documents on a Dask cluster, through joblib's own backend for it."""

import importlib.metadata
import logging
import operator
import platform
from collections.abc import Callable, Iterator

import cloudpickle
from distributed import Client
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from joblib import Parallel, delayed, parallel_config
from joblib._dask import DaskDistributedBackend

import assigner as assigner_module
from assigner import Assigner
from assignment import ClusterError

CONNECT_SECONDS = 10
WORKERS_SECONDS = 60
SAME_VERSIONS = ("scikit-learn", "numpy", "scipy", "joblib")

log = logging.getLogger("text_clustering")


class Backend(DaskDistributedBackend):
    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(super().effective_n_jobs(n_jobs), 2)  # one job joblib would run here, instead of on the cluster


def run_on_dask(address: str, assigner: Assigner, method: str, tasks: Callable[..., Iterator]) -> Iterator:
    """Run tasks on the workers of a Dask cluster, a few at a time; a worker that dies has its tasks done by another.

    The assigner travels to each worker once, with its code.

    Args:
        tasks: makes them, given what makes a task of a list of documents.

    Raises:
        ClusterError: the scheduler is not there or goes away, or a worker does not fit.
    """
    cloudpickle.register_pickle_by_value(assigner_module)
    for name in ("distributed", "distributed.client"):  # they log a traceback of what is said here in a line
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
            check_versions(client)
            log.info("Dask: %d workers of %s", len(client.ncores()), address)
            # A task that unpickles it, rather than scattered data: the scheduler can have it made again elsewhere, where
            # a worker that dies while it gets scattered data stops everything.
            model = client.submit(cloudpickle.loads, cloudpickle.dumps(assigner), pure=False)
            with parallel_config(Backend(client=client)):
                parallel = Parallel(return_as="generator", batch_size=1, pre_dispatch="2 * n_jobs")
            for result in parallel(tasks(lambda documents: delayed(operator.methodcaller(method, documents))(model))):
                if isinstance(result, BaseException):  # what was under way when the scheduler was lost
                    raise CommClosedError(repr(result))
                yield result
    except (OSError, TimeoutError, CommClosedError, FutureCancelledError) as error:
        raise ClusterError(f"The Dask cluster {address} cannot be reached, or was lost: {error}") from error


def check_versions(client: Client):
    """Check that every worker has the libraries that are here: others might answer something else.

    Raises:
        ClusterError: one has others, which are named.
    """
    here = versions_here()
    there = {name: client.run(importlib.metadata.version, name, on_error="return") for name in SAME_VERSIONS}
    there["python"] = client.run(platform.python_version)
    for name, versions in there.items():
        for worker, version in versions.items():
            if isinstance(version, Exception):
                version = "none"
            if not same(name, version, here[name]):
                raise ClusterError(
                    f"Dask worker {worker} has {name} {version}, and {here[name]} is here: "
                    "install scripts/requirements.txt there."
                )


def versions_here() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in SAME_VERSIONS}


def same(name: str, one: str, other: str) -> bool:
    if name == "python":  # its third number changes nothing here
        return one.split(".")[:2] == other.split(".")[:2]
    return one == other
