"""Read a corpus from an S3 store: the objects below a prefix."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from corpus.documents import CorpusError, shorten
from failure import Failure
from store.credentials import aws_session, find_keys
from store.model_store import is_loopback


class Bucket:
    """What s3://BUCKET/PREFIX names; the keys are those of AWS_* or the AWS profile, as for deploy_service.py.

    Each object is downloaded whole before it is read, and deleted after: Parquet is read from its end, and the
    encoding of a table is told by all of it.
    """

    def __init__(self, address: str, endpoint: str):
        self.address, self.endpoint = address, endpoint
        self.name, _, self.prefix = address.removeprefix("s3://").partition("/")
        if not self.name:
            raise CorpusError(f"{address} names no bucket: it looks like s3://bucket/prefix.")
        self.folder = self.prefix[: self.prefix.rfind("/") + 1]  # names are relative to it

    def __enter__(self):
        try:
            session = aws_session()
            keys = find_keys(session)
        except Failure as error:
            raise CorpusError(f"{self.address} cannot be read: {error}.") from error
        self.downloads = tempfile.TemporaryDirectory(prefix="text_clustering-")
        self.s3 = session.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=session.region_name or "us-east-1",
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            aws_session_token=keys.token,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                s3={"addressing_style": "path"},
                retries={"mode": "standard"},
                response_checksum_validation="when_required",  # not every store knows them
                proxies={} if is_loopback(self.endpoint) else None,
            ),
        )
        return self

    def __exit__(self, *_):
        self.downloads.cleanup()

    @contextlib.contextmanager
    def errors_explained(self):
        try:
            yield
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            raise CorpusError(
                f"The store at {self.endpoint} does not let {self.address} be read ({code}): check the bucket, the keys "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE), and --s3-endpoint."
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            raise CorpusError(
                f"The store at {self.endpoint} cannot be reached or broke off ({shorten(str(error))}): "
                "--s3-endpoint names another."
            ) from error

    def holds(self, key: str) -> bool:
        with self.errors_explained():
            found = self.s3.list_objects_v2(Bucket=self.name, Prefix=key, MaxKeys=1).get("Contents", [])
        return bool(key) and [item["Key"] for item in found] == [key]

    def names(self) -> Iterator[str]:
        """The keys below the prefix, relative to its folder."""
        with self.errors_explained():
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # the mark of an empty folder
                        yield item["Key"].removeprefix(self.folder)

    @contextlib.contextmanager
    def fetch(self, key: str) -> Iterator[Path]:
        path = Path(self.downloads.name, "object")
        with self.errors_explained():
            self.s3.download_file(self.name, key, str(path))
        try:
            yield path
        finally:
            path.unlink()
