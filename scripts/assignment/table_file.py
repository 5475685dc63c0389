"""Write a table to a .parquet, .csv or .jsonl file, the latter two also .gz, which replaces an earlier one at the end."""

import argparse
import contextlib
import csv
import functools
import gzip
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")

# The start of a cell, also in a spreadsheet that separates cells by semicolons, that would make it a formula.
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = re.compile(r"(^|;)(?='*\s*[=+\-@\t\r＝＋－＠])")


def table_path(text: str) -> Path:
    """A path whose suffix names a format of tables. Raises ArgumentTypeError for any other."""
    if not text.casefold().endswith(SUFFIXES):
        raise argparse.ArgumentTypeError(f"the name of {text} does not end in {', '.join(SUFFIXES)}")
    return Path(text)


@contextlib.contextmanager
def table_file(path: Path, schema: pyarrow.Schema) -> Iterator[Callable[[pyarrow.Table], None]]:
    """Write rows into a temporary file, which replaces the requested one at the end; its folder is created.

    Yields:
        A function that writes rows with this schema.

    Raises:
        OSError: the file cannot be written; a previous one stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            with rows_written(file, path.name.casefold(), schema) as write:
                yield write
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
def rows_written(file: IO[bytes], name: str, schema: pyarrow.Schema) -> Iterator[Callable[[pyarrow.Table], None]]:
    """Yields a function that writes rows to a file in the format of its suffix."""
    if name.endswith(".parquet"):
        with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            yield writer.write_table
        return
    binary = gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) if name.endswith(".gz") else file
    text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
    if name.removesuffix(".gz").endswith(".csv"):
        lines = csv.writer(text)
        lines.writerow(schema.names)
        yield lambda table: lines.writerows(zip(*map(csv_cells, table.columns)))
    else:
        as_line = functools.partial(json.dumps, ensure_ascii=False, default=iso_date)
        yield lambda table: text.writelines(as_line(row) + "\n" for row in table.to_pylist())
    text.detach()
    if binary is not file:
        binary.close()


def csv_cells(column: pyarrow.ChunkedArray) -> list[Any]:
    """The cells of a column, texts without formulas."""
    cells: list[Any] = column.to_pylist()
    if pyarrow.types.is_timestamp(column.type):
        return [cell and iso_date(cell) for cell in cells]
    return [cell and without_formula(cell) for cell in cells] if pyarrow.types.is_string(column.type) else cells


def iso_date(moment: datetime) -> str:
    """A date in UTC as ISO 8601: 2026-11-29T08:30:00Z."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def without_formula(text: str) -> str:
    """Put an apostrophe before a formula, so that a spreadsheet shows it as text; docs/corpora.md has the inverse."""
    return FORMULA.sub(r"\1'", text)


def column_names(path: Path) -> list[str] | None:
    """The columns of a table file, or None if it is another kind of file."""
    try:
        if path.name.casefold().endswith(".parquet"):
            return list(pyarrow.parquet.read_schema(path).names)
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            line = file.readline(1_000_000)
        if path.name.casefold().removesuffix(".gz").endswith(".csv"):
            return line.rstrip("\r\n").split(",")
        return list(json.loads(line))
    except (OSError, EOFError, ValueError, TypeError, pyarrow.ArrowException):
        return None
