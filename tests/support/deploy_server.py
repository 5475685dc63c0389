"""deploy_service.py in a fork of a small process that has loaded it, which is all that this program does.

kubectl is started from a fork of the program: a fork of the tests' own process, with all their libraries, takes 40 ms of
CPU each time. Reads one run per line of standard input, a JSON object, and prints its exit code.
"""

import support.without_gc  # noqa: I001 - also for the runs, which end soon

import contextlib
import importlib
import json
import os
import sys
import threading

import boto3

import deploy_service
import support.botocore_cache  # noqa: F401


def serve():
    boto3.client("s3", endpoint_url="http://127.0.0.1:9", region_name="us-east-1")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(arguments, environment, constants, outputs):
    """In the new process. constants: {"module.NAME": value} to set beforehand; outputs: paths for stdout and stderr."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate((os.devnull, *outputs)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), descriptor)
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    code = 1
    try:
        deploy_service.main(arguments)
        code = 0
    except SystemExit as exited:
        code = exited.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
