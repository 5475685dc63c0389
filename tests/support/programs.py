"""The project's programs as processes, without the seconds that each of them spends on loading the same libraries.

A server process (multiprocessing's forkserver) has loaded the libraries; a program is a fork of it that runs what
`python PROGRAM ...` runs, with its own arguments, environment and output. A test of what happens while a program loads
its libraries has to start it with subprocess.
"""

import atexit
import contextlib
import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from multiprocessing import forkserver, reduction
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = [
    "numpy",
    "scipy.sparse",
    "scipy.stats",
    "scipy.cluster.hierarchy",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.decomposition",
    "sklearn.feature_extraction.text",
    "sklearn.metrics",
    "sklearn.naive_bayes",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "joblib",
    "threadpoolctl",
    "coloredlogs",
    "boto3",
    "ijson",
    "pyarrow.parquet",
    "pandas",
    "fastapi",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "grpc",
    "google.protobuf.struct_pb2",
    "httpx",
    "aiohttp.web",
    "orjson",
    "cloudevents.http",
    "kubernetes",
    "prometheus_client",
    "pydantic",
    "timing_asgi",
    "starlette.middleware.cors",
    "yaml",
    "tqdm",
    "bokeh.embed",
    "bokeh.plotting",
    "jinja2",
    "minio",
    "sh",
    "distributed",
    "kserve",
]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["support.without_gc", *LIBRARIES, "support.loaded_data"])


def start_server():
    """Once, with the project on its path, which it does not inherit."""
    folders = (ROOT / "tests", ROOT / "scripts")
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, folders))):
        forkserver.ensure_running()


class ServerOfAnother(forkserver.ForkServer):
    """The server that another process has started and will end."""

    def __init__(self, address: str):
        super().__init__()
        self._forkserver_address = address
        self._forkserver_alive_fd = os.open(os.devnull, os.O_WRONLY)

    def ensure_running(self):
        pass


def shared_server() -> str:
    """The address of this process's server."""
    start_server()
    return forkserver._forkserver._forkserver_address


def use_server(address: str):
    server = ServerOfAnother(address)
    forkserver.ensure_running, forkserver.connect_to_new_process = server.ensure_running, server.connect_to_new_process


class Descriptor:
    """A file descriptor that arrives in the new process as a number."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self):
        return received, (reduction.DupFd(self.number),)


def received(duplicate) -> int:
    return duplicate.detach()


class Program:
    """A running program, with what the tests use of subprocess.Popen.

    stdout, stderr: file descriptors. prepare: a function of a module, called in the new process. Ended with the tests at
    the latest.
    """

    def __init__(
        self, script, *arguments, stdout: int, stderr: int, cwd=ROOT, env=None, start_new_session=False, prepare=None
    ):
        self.args = [str(ROOT / script), *map(str, arguments)]
        outputs = [Descriptor(stdout), Descriptor(stderr)]
        self.environment = dict(os.environ if env is None else env)
        self.process = context.Process(
            target=run_as_main,
            args=(self.args, str(cwd), self.environment, outputs, start_new_session, prepare),
            daemon=True,
        )
        start_server()
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout=None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.process.exitcode

    def send_signal(self, number: int):
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_as_main(
    command: list[str], cwd: str, environment: dict[str, str], outputs: list[int], new_session: bool, prepare
):
    """In the new process: run a script as Python runs it."""
    gc.freeze()  # a collection that looks at the libraries' objects would copy all of their memory
    sys.argv = command
    gc.enable()
    if new_session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, output in zip((1, 2), outputs):
        os.dup2(output, descriptor)
        os.close(output)
    if prepare:
        prepare()
    if Path(command[0]).parent != ROOT / "scripts":  # only the programs there find the same modules beside them
        forget_modules(["support", "training"])
        if command[0].endswith(".py"):
            reload_kserve()
    folders = list(filter(None, environment.get("PYTHONPATH", "").split(":")))
    forget_modules(path.stem for folder in folders for path in Path(folder).iterdir())
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [str(Path(command[0]).parent), *folders, *installed]
    # It may have children, and chooses itself how they start.
    multiprocessing.current_process()._config.pop("daemon")
    multiprocessing.set_start_method(None, force=True)
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()


def reload_kserve():
    """KServe parses the command line when it is imported: here that of the program."""
    for module in ("kserve.model_server", "kserve"):
        importlib.reload(sys.modules[module])


def forget_modules(names: Iterable[str]):
    """What the program finds under these names may be different from what has been loaded."""
    names = set(names)
    for module in [module for module in sys.modules if module.partition(".")[0] in names]:
        del sys.modules[module]


def run_program(script, *arguments, **options) -> subprocess.CompletedProcess:
    """As subprocess.run with capture_output."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        program = Program(script, *arguments, stdout=stdout.fileno(), stderr=stderr.fileno(), **options)
        program.wait()
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(program.args, program.returncode, *texts)


@contextlib.contextmanager
def started(script, *arguments):
    """A program in a process group of its own, as a terminal starts it; its stderr is a pipe."""
    read_end, write_end = os.pipe()
    program = Program(script, *arguments, stdout=1, stderr=write_end, start_new_session=True)
    os.close(write_end)
    with open(read_end) as program.stderr:
        yield program
        program.wait()
