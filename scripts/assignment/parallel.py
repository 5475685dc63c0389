"""The pass over all documents: assign them to clusters, in batches and in parallel."""

import argparse
import functools
import logging
import signal
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import joblib
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from command_line import jobs
from corpus.documents import Batch
from failure import Failure
from model.assigner import Assigner

PROGRESS_SECONDS = 5

# What a method of the assigner returns for a batch: Assigned, and for assign_and_sum TermSums as well.
Result = Any
# Turns a list of documents into a task, and a function that makes such tasks of all batches.
MakeTask = Callable[[list[str]], Any]
Tasks = Callable[[MakeTask], Iterator[Any]]

log = logging.getLogger("text_clustering")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=jobs, default=-1, metavar="N", help="processes that assign the documents; -1: one per core"
    )
    parser.add_argument(
        "--dask", metavar="ADDRESS", help="scheduler of a Dask cluster to use instead, such as tcp://host:8786"
    )


def assign_all(
    assigner: Assigner, batches: Iterable[Batch], method: str, total: int | None, jobs: int, dask: str | None
) -> Iterator[tuple[Batch, Result]]:
    """Assign the documents of batches in parallel, in their order; a few batches are in progress at a time.

    Args:
        method: of the assigner, "assign" or "assign_and_sum".
        total: the number of documents if it is known, for the log.
        jobs: processes of this machine; -1 is one per core.
        dask: address of the scheduler of a Dask cluster to use instead.

    Returns:
        Each batch with the method's result for its documents.

    Raises:
        Failure: the Dask cluster cannot be used, or was lost.
        Exception: any error raised by the batches.
    """
    waiting: deque[Batch] = deque()
    failures: list[Exception] = []
    # joblib warns about a pass that is broken off; its reason is reported as an error
    warnings.filterwarnings("ignore", "(?s).*You could benefit from adjusting the input task")

    def tasks(make_task: MakeTask) -> Iterator[Any]:
        try:
            for batch in batches:
                waiting.append(batch)
                yield make_task(batch.documents)
        except Exception as error:  # joblib takes the tasks in a thread of its own, where an error would be lost
            failures.append(error)

    if dask:
        try:
            from assignment.dask_cluster import run_on_dask  # here, because nothing else needs the library
        except ModuleNotFoundError as error:
            raise Failure(f"--dask needs scripts/requirements-dask.txt to be installed ({error}).") from error
        results = run_on_dask(dask, assigner, method, tasks)
    else:
        results = run_here(jobs, assigner, method, tasks)
    yield from with_progress(((waiting.popleft(), assigned) for assigned in results), total)
    if failures:
        raise failures[0]


def run_here(jobs: int, assigner: Assigner, method: str, tasks: Tasks) -> Iterator[Result]:
    """Run tasks in processes of this machine."""
    # A single job runs in this process, where threads would only wait for each other; workers have one thread anyway.
    with tempfile.TemporaryDirectory(prefix="text_clustering-") as folder, threadpool_limits(1):
        model = Path(folder, "assigner.joblib")
        joblib.dump(assigner, model)
        parallel = Parallel(jobs, return_as="generator", batch_size=1, pre_dispatch="2 * n_jobs")
        # Workers inherit it: a terminal sends Ctrl-C to them as well, and each would print a traceback.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            started = parallel([delayed(int)()])
        finally:
            signal.signal(signal.SIGINT, handler)
        list(started)
        yield from parallel(tasks(lambda documents: delayed(assign_batch)(model, method, documents)))


def assign_batch(model: Path, method: str, documents: list[str]) -> Result:
    return getattr(load_assigner(model), method)(documents)


@functools.lru_cache(maxsize=1)
def load_assigner(model: Path) -> Assigner:
    """Load the assigner once per process: sending it with every batch would take longer than assigning the batch."""
    return joblib.load(model)


def with_progress(results: Iterable[tuple[Batch, Result]], total: int | None) -> Iterator[tuple[Batch, Result]]:
    """Pass results on, and log their number, their rate and the time left every few seconds."""
    done = first = 0
    started = reported = 0.0
    for batch, assigned in results:
        yield batch, assigned
        done += len(batch.documents)
        if not first:  # only now are the workers up
            started = reported = time.monotonic()
            first = done
        elif time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            log_progress(done, total, (done - first) / (reported - started))
    if done > first:
        log_progress(done, None, (done - first) / (time.monotonic() - started))


def log_progress(done: int, total: int | None, rate: float) -> None:
    if total:
        log.info(
            "%s of %s documents assigned, %s/s, %d s left",
            *(f"{done:,}", f"{total:,}", f"{rate:,.0f}", max(total - done, 0) / rate),
        )
    else:
        log.info("%s documents assigned, %s/s", f"{done:,}", f"{rate:,.0f}")
