"""Read tables: .csv, .tsv, .json, .jsonl, .parquet, and .txt, .md or .log with one document per line."""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from corpus.columns import squeeze
from corpus.compression import DAMAGED, SUFFIXES, open_binary, without_suffix
from corpus.csv_rows import read_csv
from corpus.documents import CorpusError, Document, make_document, shorten
from corpus.encodings import Encoding, detect_encoding
from corpus.json_rows import read_json
from corpus.parquet_rows import read_parquet
from corpus.table import Table

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "lines",
    ".md": "lines",
    ".log": "lines",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
KIND_NAMES = (
    f".csv, .tsv, .json, .jsonl, .parquet or .txt (one document per line), optionally followed by "
    f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
)


def kind_of(name: str) -> str | None:
    """The format that the name of a file indicates: csv, lines, json or parquet; None for any other."""
    return KINDS.get(Path(without_suffix(name.casefold())).suffix)


def is_table(name: str) -> bool:
    return kind_of(name) not in (None, "lines")


def read_table(table: Table) -> Iterator[Document]:
    """Read the documents of a table. Their identities are the numbers of its rows, from 1.

    Raises:
        MissingColumn: the table has no text column, or none that the user named.
        CorpusError: the file is damaged; the message names the line.
    """
    readers: dict[str, Callable[..., Iterator[Document]]] = {"csv": read_csv, "lines": read_lines, "json": read_json}
    kind = kind_of(table.name) or "lines"
    try:
        if kind == "parquet":
            yield from read_parquet(table)
        else:
            encoding = encoding_of(table)
            yield from readers[kind](table, encoding.name, functools.partial(open_text, table, encoding))
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{table.name} could not be read as {error.encoding} ({error.reason}): name its encoding with --encoding."
        ) from error
    except (UnicodeError, *DAMAGED) as error:
        raise CorpusError(f"{table.name} could not be read: {shorten(str(error))}.") from error


def encoding_of(table: Table) -> Encoding:
    if table.options.encoding:
        return Encoding(table.options.encoding, "strict", table.options.encoding)
    with open_binary(table.path, table.name) as file:
        encoding = detect_encoding(file, table.name)
    if encoding.errors == "replace":
        table.findings.remarks.append(f"{table.name}: bytes that are not UTF-8 were replaced by \ufffd")
    if encoding.guessed:
        table.findings.remarks.append(
            f"{table.name}: the encoding is guessed to be {encoding.codec}; --encoding overrides it"
        )
    return encoding


@contextlib.contextmanager
def open_text(table: Table, encoding: Encoding) -> Iterator[TextIO]:
    with (
        open_binary(table.path, table.name) as file,
        io.TextIOWrapper(file, encoding.codec, encoding.errors, newline="") as text,
    ):
        yield text


def read_lines(
    table: Table, encoding: str, open_text: Callable[[], AbstractContextManager[TextIO]]
) -> Iterator[Document]:
    """Read a file with a document per line, or a table with tabs, which spreadsheets call "Unicode text"."""
    with open_text() as lines:
        header = list(map(squeeze, lines.readline().split(table.options.separator or "\t")))
    wanted = squeeze(table.options.text_column or "text")
    if len(header) > 1 and (wanted.isdecimal() or wanted in [name.strip('"') for name in header]):
        yield from read_csv(table, encoding, open_text)
        return
    table.findings.formats[f"{encoding}, one document per line"] += 1
    with open_text() as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield make_document(str(number), line.rstrip("\r\n"))
            else:
                table.findings.left_out["lines without text"] += 1
