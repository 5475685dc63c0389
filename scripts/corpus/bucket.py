"""Read a corpus from an S3 store: an object, or the objects below a prefix."""

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from corpus.documents import CorpusError
from store.client import S3Bucket
from store.credentials import aws_session, find_keys

CLOCK_DIFFERENCE = timedelta(hours=1)  # by which the store's clock may be behind


class Bucket(S3Bucket):
    """The objects that s3://BUCKET/PREFIX names, read with the keys of AWS_* or of the AWS profile.

    Each object is downloaded before it is read, and deleted afterwards: Parquet is read from its end, and detecting
    the encoding of a table takes all of it.

    Raises:
        CorpusError: the address names no bucket.
        BadInput: the AWS profile does not exist, or the endpoint is no address of a store.
        StoreError: a call fails.
    """

    def __init__(self, address: str, endpoint: str):
        name, _, self.prefix = address.removeprefix("s3://").partition("/")
        if not name:
            raise CorpusError(f"{address} names no bucket: it looks like s3://bucket/prefix.")
        session = aws_session()
        super().__init__(session, endpoint, name, find_keys(session))
        self.address = address

    @property
    def folder(self) -> str:
        """The part of the prefix that names are relative to."""
        return self.prefix[: self.prefix.rfind("/") + 1]

    def __enter__(self) -> Self:
        self.downloads = tempfile.TemporaryDirectory(prefix="text_clustering-")
        return self

    def __exit__(self, *_: object) -> None:
        self.downloads.cleanup()

    def is_object(self) -> bool:
        """Whether the prefix is the key of an object. One that ends in a slash is a folder, even if the key exists."""
        return not self.prefix.endswith("/") and next(self.keys_below(self.prefix), None) == self.prefix

    def names(self, since: datetime | None = None) -> Iterator[str]:
        """The keys below the prefix, relative to its folder. A prefix that is followed by a slash is a folder, too.

        Args:
            since: leave out objects that were last written before. Requests are recorded after they have arrived.
        """
        if self.prefix and not self.prefix.endswith("/") and next(self.keys_below(f"{self.prefix}/"), None):
            self.prefix += "/"
        for key in self.keys_below(self.prefix, since=since and since - CLOCK_DIFFERENCE):
            if not key.endswith("/"):  # marks an empty folder
                yield key.removeprefix(self.folder)

    @contextlib.contextmanager
    def fetch(self, key: str) -> Iterator[Path]:
        """Download an object for as long as the context lasts."""
        path = Path(self.downloads.name, "object")
        self.call(self.s3.download_file, self.bucket, key, str(path))
        try:
            yield path
        finally:
            path.unlink()
