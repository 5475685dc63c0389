"""Write the cluster of each document to a .parquet, .csv or .jsonl file, the latter two also .gz."""

import argparse
import contextlib
import csv
import gzip
import io
import json
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
import pyarrow.parquet

from command_line import similarity
from corpus.documents import Batch
from corpus.protection import Output
from model.assigner import Assigned
from model.clusters import NO_CLUSTER, reject_distant

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


Write = Callable[[Batch, Assigned, dict[int, str]], None]

log = logging.getLogger("text_clustering")

# The start of a cell, also in a spreadsheet that separates cells by semicolons, that would make it a formula.
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = re.compile(r"(^|;)(?='*\s*[=+\-@\t\r＝＋－＠])")


def add_assignment_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--assignments",
        type=assignment_path,
        required=required,
        metavar="FILE",
        help=f"write the cluster of each document to a file; its name ends in {', '.join(SUFFIXES)}",
    )
    parser.add_argument(
        "--min-similarity",
        type=similarity,
        metavar="COSINE",
        help="in the assignments, put documents into no cluster (-1) if the nearest one is less similar than this, such as "
        "0.4 (default: never)",
    )


def assignment_path(text: str) -> Path:
    """A path whose suffix names a format of assignments. Raises ArgumentTypeError for any other."""
    if not text.casefold().endswith(SUFFIXES):
        raise argparse.ArgumentTypeError(f"the name of {text} does not end in {', '.join(SUFFIXES)}")
    return Path(text)


def assignment_output(path: Path | None) -> list[Output]:
    """The assignment file among the outputs of a program; none without a path."""
    return [Output(path, "--assignments", is_assignment_file)] if path else []


@contextlib.contextmanager
def assignment_file(path: Path | None, min_similarity: float | None) -> Iterator[Write]:
    """Write assignments batch by batch into a temporary file, which replaces the requested one at the end.

    Args:
        min_similarity: the cluster of less similar documents is NO_CLUSTER; None: of none.

    Yields:
        A function that writes a batch, given the names that people gave to clusters; without a path it does nothing.

    Raises:
        OSError: the file cannot be written; a previous one stays as it was.
    """
    if path is None:
        yield lambda batch, assigned, names: None
        return
    counts: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            with rows_written(file, path.name.casefold()) as write:
                yield lambda batch, assigned, names: write(
                    as_table(batch, rejected_and_counted(assigned, min_similarity, counts), names)
                )
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~current_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    log_assignments(path, min_similarity, counts)


def rejected_and_counted(assigned: Assigned, min_similarity: float | None, counts: Counter[str]) -> Assigned:
    """Put documents that are too far from their clusters into no cluster, and count."""
    kept = assigned._replace(clusters=reject_distant(assigned.clusters, assigned.similarities, min_similarity))
    unknown = int(np.sum(assigned.clusters == NO_CLUSTER))
    counts["documents"] += len(kept.clusters)
    counts["unknown"] += unknown
    counts["rejected"] += int(np.sum(kept.clusters == NO_CLUSTER)) - unknown
    return kept


def log_assignments(path: Path, min_similarity: float | None, counts: Counter[str]) -> None:
    rejected = f", {counts['rejected']} less similar than {min_similarity:g} (-1)" if min_similarity else ""
    log.info(
        "%d documents, %d of them without an in-vocabulary term (-1)%s",
        counts["documents"],
        counts["unknown"],
        rejected,
    )
    log.info("Wrote %s", path.resolve())


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def rows_written(file: IO[bytes], name: str) -> Iterator[Callable[[pyarrow.Table], None]]:
    """Yields a function that writes rows to a file in the format of its suffix."""
    if name.endswith(".parquet"):
        with pyarrow.parquet.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            yield writer.write_table
        return
    binary = gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) if name.endswith(".gz") else file
    text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
    if name.removesuffix(".gz").endswith(".csv"):
        lines = csv.writer(text)
        lines.writerow(SCHEMA.names)
        yield lambda table: lines.writerows(zip(*map(csv_cells, table.columns)))
    else:
        yield lambda table: text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    text.detach()
    if binary is not file:
        binary.close()


def csv_cells(column: pyarrow.ChunkedArray) -> list[Any]:
    """The cells of a column, texts without formulas."""
    cells = column.to_pylist()
    return [cell and without_formula(cell) for cell in cells] if pyarrow.types.is_string(column.type) else cells


def without_formula(text: str) -> str:
    """Put an apostrophe before a formula, so that a spreadsheet shows it as text; docs/corpora.md has the inverse."""
    return FORMULA.sub(r"\1'", text)


def is_assignment_file(path: Path) -> bool:
    """Whether a file has the columns of an assignment file."""
    names = list(SCHEMA.names)
    try:
        if path.name.casefold().endswith(".parquet"):
            return pyarrow.parquet.read_schema(path).names == names
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            line = file.readline(1_000_000)
        if path.name.casefold().removesuffix(".gz").endswith(".csv"):
            return line.rstrip("\r\n") == ",".join(names)
        return list(json.loads(line)) == names
    except (OSError, EOFError, ValueError, pyarrow.ArrowException):
        return False


def as_table(batch: Batch, assigned: Assigned, names: dict[int, str]) -> pyarrow.Table:
    """The rows of a batch; null for what a document without an in-vocabulary term lacks, and for missing names."""
    unknown = np.isnan(assigned.similarities)
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
