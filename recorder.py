#!/usr/bin/env python
"""Record the requests of a service: takes the events of KServe's logger and writes them to an S3 store.

    python recorder.py --store http://HOST:PORT --bucket textclustering-requests --prefix NAMESPACE/NAME/

KServe's logger, a proxy in front of the transformer, sends each request to this program in the same pod. It could also
write to the store itself, but then a store that does not answer stops the service: behind 100 waiting records
(LoggerWorkerQueueSize in kserve/kserve, pkg/logger/worker.go) each request waits for the store. An HTTP sink is called
outside of the request. This one accepts every event at once, keeps a limited amount in memory, writes it with timeouts
and drops what the store does not take in time.

The keys are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. scripts/corpus/recorded_requests.py reads what is written.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import logging
import os
import secrets
import signal
import threading
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import minio
import urllib3
import uvicorn
from minio.error import MinioException
from starlette.types import Receive, Scope, Send

PORT = 9085
LARGEST_BODY = 4 * 2**20  # bytes; the service refuses larger requests, too
OBJECT_BYTES = 4 * 2**20
BUFFER_BYTES = 16 * 2**20
INTERVAL = 60.0  # seconds until a smaller object is written
RETRY = 10.0  # seconds
LAME_DUCK = 5.0  # seconds for which the logger of a pod that ends still sends events

log = logging.getLogger("recorder")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--store", required=True, metavar="URL", help="of the S3 store")
    parser.add_argument("--region", default="us-east-1", help="of the S3 store")
    parser.add_argument("--store-ca", metavar="FILE", help="CA certificates that the store is trusted by, PEM")
    parser.add_argument("--bucket", required=True, help="must exist")
    parser.add_argument("--prefix", default="", help="of the objects' keys")
    parser.add_argument("--port", type=int, default=PORT, help="on the loopback interface")
    parser.add_argument(
        "--interval", type=float, default=INTERVAL, metavar="SECONDS", help="longest time until requests are written"
    )
    return parser.parse_args()


class Buffer:
    """Serialised records that wait to be written: a limited amount, from the event loop to the writing thread."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.bytes = self.dropped = 0
        self.lock = threading.Lock()
        self.is_object_full = threading.Event()

    def add(self, record: bytes) -> None:
        """Keep a record, or count it as dropped if there is no room."""
        with self.lock:
            if self.bytes + len(record) > BUFFER_BYTES:
                self.dropped += 1
                return
            self.records.append(record)
            self.bytes += len(record)
            if self.bytes >= OBJECT_BYTES:
                self.is_object_full.set()

    def take(self) -> list[bytes]:
        """Remove and return the oldest records, about as many as an object holds."""
        with self.lock:
            count, size = 0, 0
            while count < len(self.records) and size < OBJECT_BYTES:
                size += len(self.records[count])
                count += 1
            taken, self.records = self.records[:count], self.records[count:]
            self.bytes -= size
            if self.bytes < OBJECT_BYTES:
                self.is_object_full.clear()
            return taken

    def take_dropped(self) -> int:
        with self.lock:
            dropped, self.dropped = self.dropped, 0
            return dropped


class Sink:
    """ASGI application that puts the request of each event into the buffer, and answers before it is written."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if len(body) <= LARGEST_BODY:
                body += message.get("body", b"")
            more = message.get("more_body", False)
        if 0 < len(body) <= LARGEST_BODY:  # a request without a body has no texts, such as one for a page
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            self.buffer.add(json.dumps(record_of(bytes(body), headers)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


def record_of(body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    """The request of an event, with the fields that KServe's logger gives it when it writes JSON to a store itself.

    https://github.com/kserve/kserve/blob/v0.20.0/pkg/logger/worker.go (the event) and types.go (the fields)
    """
    try:
        metadata = json.loads(headers.get("ce-metadata") or "{}")
    except ValueError:
        metadata = {}
    return {
        "bytes": base64.b64encode(body).decode(),
        "contentType": headers.get("content-type", ""),
        "reqType": headers.get("ce-type", ""),
        "id": headers.get("ce-id", ""),
        "pod": headers.get("ce-source", ""),
        "inferenceService": headers.get("ce-inferenceservicename", ""),
        "namespace": headers.get("ce-namespace", ""),
        "component": headers.get("ce-component", ""),
        "metadata": metadata,
        "occurrenceTime": headers.get("ce-time", ""),
    }


class Writer:
    """The thread that writes what is in the buffer. A record is dropped only if the buffer is full or the pod ends."""

    def __init__(self, buffer: Buffer, store: minio.Minio, bucket: str, prefix: str, interval: float) -> None:
        self.buffer, self.store, self.bucket, self.prefix = buffer, store, bucket, prefix
        self.interval = interval
        self.stopping = threading.Event()
        self.is_failing = False
        self.thread = threading.Thread(target=self.run, name="writer", daemon=True)

    def run(self) -> None:
        while not self.stopping.is_set():
            self.buffer.is_object_full.wait(self.interval)
            self.write_all()
        self.write_all()

    def write_all(self) -> None:
        while records := self.buffer.take():
            key = new_key(self.prefix)  # the same on every attempt, so that none leaves a duplicate
            while not self.write(key, records):
                if self.stopping.wait(RETRY):
                    return

    def write(self, key: str, records: list[bytes]) -> bool:
        content = b"[" + b",\n".join(records) + b"]\n"
        try:
            self.store.put_object(
                *(self.bucket, key, io.BytesIO(content), len(content)),
                content_type="application/json",
                part_size=64 * 2**20,  # one request: the store's user may not do more
            )
        except (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if not self.is_failing:
                log.error(
                    "Requests cannot be recorded: %s. Up to %d MiB are kept until they can, the rest is dropped",
                    *(" ".join(str(error).split())[:300], BUFFER_BYTES // 2**20),
                )
            self.is_failing = True
            return False
        if self.is_failing or self.buffer.dropped:
            log.warning("Requests are recorded again; %d were dropped", self.buffer.take_dropped())
        self.is_failing = False
        return True

    def stop(self) -> None:
        """Write what is left, in one attempt."""
        self.stopping.set()
        self.buffer.is_object_full.set()
        self.thread.join(30)


def new_key(prefix: str) -> str:
    """A key that sorts by time, and that no other pod writes."""
    pod = os.environ.get("HOSTNAME", "pod")
    return f"{prefix}{datetime.now(UTC):%Y-%m-%d/%H%M%S}-{pod}-{secrets.token_hex(3)}.json"


def store_client(arguments: argparse.Namespace) -> minio.Minio:
    address = urlsplit(arguments.store)
    trust = {"ca_certs": arguments.store_ca} if arguments.store_ca else {}
    return minio.Minio(
        address.netloc,
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        secure=address.scheme == "https",
        region=arguments.region,  # otherwise it would be requested, which the store's user may not do
        http_client=urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=20), retries=False, **trust),
    )


async def serve(buffer: Buffer, port: int) -> None:
    """Accept events until SIGTERM, and a little longer."""
    config = uvicorn.Config(
        Sink(buffer), host="127.0.0.1", port=port, http="httptools", ws="none", lifespan="off", access_log=False
    )
    server, ended = uvicorn.Server(config), asyncio.Event()
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # uvicorn would end at once
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    serving = asyncio.create_task(server.serve())
    await asyncio.wait([serving, asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        await asyncio.sleep(LAME_DUCK)
    server.should_exit = True
    await serving


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    buffer = Buffer()
    writer = Writer(buffer, store_client(arguments), arguments.bucket, arguments.prefix, arguments.interval)
    writer.thread.start()
    log.info("Recording to s3://%s/%s", arguments.bucket, arguments.prefix)
    asyncio.run(serve(buffer, arguments.port))
    writer.stop()


if __name__ == "__main__":
    main()
