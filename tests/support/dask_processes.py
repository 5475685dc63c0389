"""A Dask cluster of real processes: a scheduler, and two workers with a core each."""

import os
import sys
import time
from pathlib import Path

from distributed import Client

from support.free_port import free_port
from support.programs import Program

DASK = Path(sys.executable).with_name("dask")
START_SECONDS = 180
WORKERS = 2


class Cluster:
    """Started on entering, ended on leaving; its log and the workers' files are in a folder.

    `launch` starts a program, as Program does.
    """

    def __init__(self, folder: Path, launch=Program):
        self.folder, self.launch = folder, launch

    def __enter__(self):
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.log = (self.folder / "dask.log").open("a+")
        self.scheduler = self.start("scheduler", "--port", self.address.rpartition(":")[2])
        self.workers = []
        try:
            self.restore()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, *command, **environment):
        command = (*command, "--no-dashboard", "--host", "127.0.0.1")
        environment = os.environ | {name: str(value) for name, value in environment.items()}
        log = self.log.fileno()
        # From elsewhere, for a worker on another machine has none of the project's files.
        return self.launch(DASK, *command, stdout=log, stderr=log, cwd="/", env=environment)

    def add_worker(self, **environment):
        options = ["--no-nanny", "--nthreads", "1", "--local-directory", self.folder]
        one_thread = {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1}  # which the nanny would set
        self.workers.append(self.start("worker", self.address, *options, **one_thread, **environment))

    def restore(self):
        """Replace what has ended, and end the workers that were added."""
        if self.scheduler.poll() is not None:
            self.__exit__()
            self.__enter__()
            return
        end(self.workers[WORKERS:])
        self.workers = [process for process in self.workers if process.poll() is None]
        self.wait_for_workers()
        while len(self.workers) < WORKERS:
            self.add_worker()
        self.wait_for_workers()

    def wait_for_workers(self):
        """Until the scheduler has the workers, and no longer those that have ended."""
        deadline = time.monotonic() + START_SECONDS
        with Client(self.address, timeout=START_SECONDS, set_as_default=False) as client:
            while len(client.nthreads()) != len(self.workers):
                assert time.monotonic() < deadline, Path(self.log.name).read_text()
                time.sleep(0.05)

    def __exit__(self, *_):
        end([*self.workers, self.scheduler])
        self.log.close()


def end(processes):
    for process in processes:
        process.kill()
        process.wait()
