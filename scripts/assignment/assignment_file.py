"""Write where each document belongs: a .parquet, .csv or .jsonl file, the latter two also .gz."""

import argparse
import contextlib
import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow
import pyarrow.parquet

from corpus.documents import Batch
from model.assigner import Assigned
from model.clusters import NO_CLUSTER

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")
SCHEMA = pyarrow.schema(
    {
        "document": pyarrow.string(),
        "title": pyarrow.string(),
        "cluster": pyarrow.int32(),
        "cluster_name": pyarrow.string(),
        "similarity": pyarrow.float64(),
        "runner_up": pyarrow.int32(),
        "runner_up_similarity": pyarrow.float64(),
    }
)


def add_assignments_option(parser: argparse.ArgumentParser, required: bool = False):
    parser.add_argument(
        "--assignments",
        type=assignment_path,
        required=required,
        metavar="FILE",
        help=f"write the cluster of each document to a file; its name ends in {', '.join(SUFFIXES)}",
    )


def assignment_path(text: str) -> Path:
    """A path whose name says in which form the assignments are to be written.

    Raises:
        argparse.ArgumentTypeError: it does not.
    """
    if not text.casefold().endswith(SUFFIXES):
        raise argparse.ArgumentTypeError(f"the name of {text} does not end in {', '.join(SUFFIXES)}")
    return Path(text)


@contextlib.contextmanager
def assignment_file(path: Path | None) -> Iterator[Callable[[Batch, Assigned, dict[int, str]], None]]:
    """Write assignments batch by batch: into a file beside the one that is asked for, which it becomes at the end.

    Yields:
        What writes a batch, with the names that people gave to clusters; without a path it does nothing.

    Raises:
        OSError: the file cannot be written; one that was there before stays as it was.
    """
    if path is None:
        yield lambda batch, assigned, names: None
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            with rows_written(file, path.name.casefold()) as write:
                yield lambda batch, assigned, names: write(as_table(batch, assigned, names))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~current_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def rows_written(file: BinaryIO, name: str) -> Iterator[Callable[[pyarrow.Table], None]]:
    """Yields what writes rows to a file in the form that its name says."""
    if name.endswith(".parquet"):
        with pyarrow.parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            yield writer.write_table
        return
    binary = gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) if name.endswith(".gz") else file
    text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
    if name.removesuffix(".gz").endswith(".csv"):
        writer = csv.writer(text)
        writer.writerow(SCHEMA.names)
        yield lambda table: writer.writerows(zip(*(column.to_pylist() for column in table.columns)))
    else:
        yield lambda table: text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    text.detach()
    if binary is not file:
        binary.close()


def as_table(batch: Batch, assigned: Assigned, names: dict[int, str]) -> pyarrow.Table:
    """The rows of a batch; null is what a document without a known term, or a cluster without a name, has not."""
    unknown = assigned.clusters == NO_CLUSTER
    alone = assigned.runners_up == NO_CLUSTER
    columns = [
        batch.identities,
        batch.titles,
        assigned.clusters,
        [names.get(cluster) for cluster in assigned.clusters.tolist()],
        pyarrow.array(assigned.similarities, mask=unknown),
        pyarrow.array(assigned.runners_up, mask=alone),
        pyarrow.array(assigned.runner_up_similarities, mask=alone),
    ]
    return pyarrow.table(columns, schema=SCHEMA)
