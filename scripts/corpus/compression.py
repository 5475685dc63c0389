"""Open files that may be compressed: .gz, .bz2, .xz and .zst."""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}

# What reading a damaged compressed file raises.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)


def without_suffix(name: str) -> str:
    """A name without the suffix of its compression."""
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.casefold().endswith(suffix)), name)


@contextlib.contextmanager
def open_binary(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed according to its first bytes or else its name."""
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        compression = next((suffix for magic, suffix in MAGIC.items() if head.startswith(magic)), None)
        compression = compression or next((s for s in SUFFIXES if name.casefold().endswith(s)), None)
        yield decompressed(file, compression)


@contextlib.contextmanager
def uncompressed(path: Path) -> Iterator[Path]:
    """A file itself, or a temporary copy of what is compressed in it."""
    with path.open("rb") as file:
        head = file.read(6)
    if not any(head.startswith(magic) for magic in MAGIC):
        yield path
        return
    with open_binary(path, "") as content, tempfile.NamedTemporaryFile(prefix="text_clustering-") as copy:
        shutil.copyfileobj(content, copy)
        copy.flush()
        yield Path(copy.name)


def decompressed(file: BinaryIO, compression: str | None) -> BinaryIO:
    if compression == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if compression == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(file))
    if compression == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if compression == ".zst":  # Python 3.11 cannot read it
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, pyarrow.CompressedInputStream(file, "zstd"))))
    return file
