"""A Dask cluster of real processes: a scheduler, and two workers with a core each."""

import os
import sys
from pathlib import Path

from distributed import Client

from support.free_port import free_port
from support.programs import Program

DASK = Path(sys.executable).with_name("dask")
START_SECONDS = 180


class Cluster:
    """Started on entering, ended on leaving; its log and the workers' files are in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.log = (self.folder / "dask.log").open("w+")
        self.scheduler = self.start("scheduler", "--port", self.address.rpartition(":")[2])
        self.workers = []
        try:
            for _ in range(2):
                self.add_worker()
            self.wait_for_workers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, *command, **environment) -> Program:
        command = (*command, "--no-dashboard", "--host", "127.0.0.1")
        environment = os.environ | {name: str(value) for name, value in environment.items()}
        log = self.log.fileno()
        # From elsewhere, for a worker on another machine has none of the project's files.
        return Program(DASK, *command, stdout=log, stderr=log, cwd="/", env=environment)

    def add_worker(self, **environment):
        options = ["--no-nanny", "--nthreads", "1", "--local-directory", self.folder]
        one_thread = {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1}  # which the nanny would set
        self.workers.append(self.start("worker", self.address, *options, **one_thread, **environment))

    def wait_for_workers(self):
        with Client(self.address, timeout=START_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(len(self.workers), timeout=START_SECONDS)

    def __exit__(self, *_):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self.log.close()
