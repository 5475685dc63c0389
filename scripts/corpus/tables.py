"""Read tables: .csv, .tsv, .json, .jsonl, .parquet, and .txt with a document a line; each also .gz.

CSV is read by Python's own strict reader and Parquet by Arrow. Arrow and DuckDB were tried for CSV, too: Arrow takes
a quote that never closes for one long cell and loses the rows behind it without a word, DuckDB takes a table with a
stray comma for one of a single column, and neither reads Windows-1252 without being told.
"""

import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ijson
import pyarrow
import pyarrow.parquet

from corpus.documents import BATCH_DOCUMENTS, CorpusError, Document, Findings, Options, make_document, shorten
from corpus.encodings import CHUNK, Encoding, detect_encoding

SEPARATORS = [",", ";", "\t", "|"]
LARGEST_CELL = 16 * 2**20  # characters; without a limit, a quote that never closes swallows the rest of the file
KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "lines",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
KIND_NAMES = ".csv, .tsv, .txt (a document a line), .json, .jsonl or .parquet, or in one of these and .gz"


def kind_of(name: str) -> str | None:
    """What the name of a file says it holds: csv, lines, json or parquet; None: no table."""
    return KINDS.get(suffix_of(name))


def suffix_of(name: str) -> str:
    return Path(name.casefold().removesuffix(".gz")).suffix


class Table(NamedTuple):
    """A file of rows, on its way to be read."""

    path: Path
    name: str  # what it is called in messages
    options: Options
    findings: Findings  # is told what was detected, and which rows are left out


def read_table(table: Table) -> Iterator[Document]:
    """Read the documents of a table. Their identities are the numbers of its rows, from 1.

    Raises:
        CorpusError: the file is damaged, or has no text column; the message names the line.
    """
    kind = kind_of(table.name)
    try:
        if kind == "parquet":
            yield from read_parquet(table)
        else:
            encoding = encoding_of(table)
            read = {"csv": read_csv, "lines": read_lines, "json": read_json}[kind]
            yield from read(table, encoding, functools.partial(open_text, table, encoding))
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{table.name} could not be read as {error.encoding} ({error.reason}): name its encoding with --encoding."
        ) from error
    except (OSError, EOFError, UnicodeError, zlib.error, pyarrow.ArrowException) as error:
        raise CorpusError(f"{table.name} could not be read: {shorten(str(error))}.") from error


def encoding_of(table: Table) -> Encoding:
    if table.options.encoding:
        return Encoding(table.options.encoding, "strict", table.options.encoding)
    with open_binary(table) as file:
        encoding = detect_encoding(file, table.name)
    if encoding.errors == "replace":
        table.findings.remarks.append(f"{table.name}: bytes that are not UTF-8 were replaced by \ufffd")
    if encoding.guessed:
        table.findings.remarks.append(
            f"{table.name}: the encoding is guessed to be {encoding.codec}; --encoding overrides it"
        )
    return encoding


@contextlib.contextmanager
def open_binary(table: Table) -> Iterator[BinaryIO]:
    with table.path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b" or table.name.casefold().endswith(".gz")
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if compressed else file


@contextlib.contextmanager
def open_text(table: Table, encoding: Encoding) -> Iterator[io.TextIOWrapper]:
    with open_binary(table) as file, io.TextIOWrapper(file, encoding.codec, encoding.errors, newline="") as text:
        yield text


# ------------------------------------------------------------------------------------------------------- columns


class Columns(NamedTuple):
    """The columns that documents are made of, under the names that the table gives them."""

    text: str
    title: str | None
    label: str | None

    def __str__(self) -> str:
        return ", ".join(f"{role} in '{name}'" for role, name in self._asdict().items() if name is not None)


def find_columns(names: list[str], table: Table) -> Columns:
    """Find the columns of a table by their names, without regard to case and spaces.

    Raises:
        CorpusError: there is none with the text, or none that the user named.
    """
    found = []
    for role, wanted in (
        ("text", table.options.text_column),
        ("title", table.options.title_column),
        ("label", table.options.label_column),
    ):
        found.append(find_column(names, wanted or role, f"--{role}-column", table))
        if found[-1] is None and (wanted or role == "text"):
            raise missing_column(wanted or role, f"--{role}-column", names, table)
    return Columns(*found)


def find_column(names: list[str], wanted: str, option: str, table: Table) -> str | None:
    if wanted in names:
        return wanted
    found = [name for name in names if squeeze(name) == squeeze(wanted)]
    if len(found) > 1:
        raise CorpusError(f"{table.name} has the columns {shorten(', '.join(found))}: choose one with {option}.")
    return found[0] if found else None


def squeeze(name: str) -> str:
    return "".join(name.split()).casefold()


def missing_column(wanted: str, option: str, names: Iterable[str], table: Table) -> CorpusError:
    return CorpusError(
        f"{table.name} has no column '{wanted}'; it has: {shorten(', '.join(map(str, names)))}. "
        f"Name the right one with {option}."
    )


# ----------------------------------------------------------------------------------------------------------- csv


def read_csv(table: Table, encoding: Encoding, open_lines: Callable) -> Iterator[Document]:
    """Read a table with a header line, whose cells are separated by a comma, a semicolon, a tab or a bar."""
    csv.field_size_limit(LARGEST_CELL)
    with open_lines() as lines:
        header, separator, rows = open_csv(lines, table)
        if header is None:
            return
        columns = find_columns(header, table)
        table.findings.formats[f"table, {encoding.name}, separator {name_of(separator)}, {columns}"] += 1
        text_place, title_place, label_place = (None if name is None else header.index(name) for name in columns)
        width, short = len(header), []
        for number, (line, row) in enumerate(rows, start=1):
            if len(row) > width and any(map(str.strip, row[width:])):
                raise CorpusError(
                    f"{table.name}, line {line}: {len(row)} cells where the header has {width}. A cell with a "
                    f"{name_of(separator)} in it stands in double quotes; --separator names another separator."
                )
            if len(row) < width:
                short.append(line)
                row += [""] * (width - len(row))
            if not row[text_place].strip():
                table.findings.left_out["rows without text"] += 1
                continue
            title = None if title_place is None else row[title_place]
            label = None if label_place is None else row[label_place]
            yield make_document(str(number), row[text_place], title, label)
    if short:
        table.findings.remarks.append(
            f"{table.name}: {len(short)} rows have fewer cells than the header, the first in line {short[0]}"
        )


def open_csv(lines: Iterable[str], table: Table) -> tuple[list[str] | None, str | None, Iterator]:
    """Find the header and the separator: the one that finds the text column, or else the most columns, in the header.

    Returns:
        The header, None in an empty file; the separator; and an iterator over (line number, row) behind the header.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    number, first = next(numbered, (0, None))
    separator = table.options.separator
    if first and first.casefold().startswith("sep=") and len(first.strip("\r\n")) == 5:  # written for Excel
        separator = separator or first[4]
        number, first = next(numbered, (0, None))
    if first is None:
        return None, None, iter([])
    if not separator:
        candidates = ["\t", *SEPARATORS] if suffix_of(table.name) in (".tsv", ".txt") else SEPARATORS
        headers = {candidate: split_header(first, candidate) for candidate in candidates}
        wanted = squeeze(table.options.text_column or "text")
        separator = max(headers, key=lambda s: (wanted in map(squeeze, headers[s]), len(headers[s])))
    rows = csv_rows(itertools.chain([first], lines), separator, number - 1, table)
    return next(rows)[1], separator, rows


def split_header(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def csv_rows(lines: Iterable[str], separator: str, lines_before: int, table: Table) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of the line that it begins in."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = lines_before + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = {
                "unexpected end of data": "a double quote opens a cell and never closes",
                f"field larger than field limit ({LARGEST_CELL})": f"a cell of more than {LARGEST_CELL} characters, "
                "perhaps a double quote that never closes",
            }.get(str(error), f"a double quote closes before the end of its cell ({error})")
            raise CorpusError(
                f"{table.name}, line {line}: {reason}. A quote inside a quoted cell is written twice."
            ) from error
        if row:
            yield line, row


def name_of(separator: str) -> str:
    return "tab" if separator == "\t" else f"'{separator}'"


# --------------------------------------------------------------------------------------------------------- lines


def read_lines(table: Table, encoding: Encoding, open_lines: Callable) -> Iterator[Document]:
    """Read a file with a document a line, or the table with tabs that a spreadsheet calls "Unicode text"."""
    with open_lines() as lines:
        header = list(map(squeeze, split_header(lines.readline(), table.options.separator or "\t")))
    if len(header) > 1 and squeeze(table.options.text_column or "text") in header:
        yield from read_csv(table, encoding, open_lines)
        return
    table.findings.formats[f"{encoding.name}, a document a line"] += 1
    with open_lines() as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield make_document(str(number), line.rstrip("\r\n"))
            else:
                table.findings.left_out["lines without text"] += 1


# ---------------------------------------------------------------------------------------------------------- json


def read_json(table: Table, encoding: Encoding, open_lines: Callable) -> Iterator[Document]:
    """Read an object a line, objects over several lines, or an array of objects."""
    with open_lines() as text:
        head = text.read(CHUNK).lstrip()
    whole_lines = not head.startswith("{") or "\n" not in head or is_json(head.partition("\n")[0])
    rows, form = (stream_json, "objects") if not whole_lines else (json_lines, "an object a line")
    if head.startswith("["):
        rows, form = stream_json, "an array of objects"
    columns_of, columns = {}, None
    with open_lines() as text:
        for number, (place, row) in enumerate(rows(text, table, "item" if head.startswith("[") else ""), start=1):
            if not isinstance(row, dict):
                raise CorpusError(f"{place} of {table.name} is {shorten(json.dumps(row))}: expected an object.")
            names = tuple(row)
            if names not in columns_of:
                columns_of[names] = json_columns(names, table)
            columns = columns_of[names]
            content = row.get(columns.text)
            missing = content is None or content != content  # NaN, as pandas writes it
            if missing or (isinstance(content, str) and not content.strip()):
                table.findings.left_out["rows without text"] += 1
            elif isinstance(content, str):
                yield make_document(str(number), content, row.get(columns.title), row.get(columns.label))
            else:
                raise CorpusError(
                    f"{place} of {table.name} has in column '{columns.text}' no text, but "
                    f"{shorten(json.dumps(content))}. --text-column names another."
                )
    if columns:
        present = {name for names in columns_of for name in names}
        found = find_columns(list(present), table)
        table.findings.formats[f"JSON, {form}, {encoding.name}, {found}"] += 1


def json_columns(names: tuple[str], table: Table) -> Columns:
    """The columns of one object, of which any may be absent."""
    options = table.options
    wanted = (options.text_column or "text", options.title_column or "title", options.label_column or "label")
    return Columns(*(find_column(list(names), name, "another name", table) for name in wanted))


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True


def json_lines(text: Iterable[str], table: Table, _: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(text, start=1):
        if line.strip():
            try:
                yield f"Line {number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise CorpusError(f"{table.name} could not be read: line {number} is no JSON ({error}).") from error


def stream_json(text: io.TextIOBase, table: Table, prefix: str) -> Iterator[tuple[str, object]]:
    """The values at a prefix, one by one: an array may be larger than the memory."""
    chunks = (chunk.encode(errors="replace") for chunk in iter(functools.partial(text.read, CHUNK), ""))
    number = 0
    try:
        for value in ijson.items(ijson.from_iter(chunks), prefix, use_float=True, multiple_values=not prefix):
            number += 1
            yield f"Row {number}", value
    except ijson.JSONError as error:
        raise CorpusError(
            f"{table.name} could not be read: in or behind row {number}, {shorten(str(error))}."
        ) from error


# ------------------------------------------------------------------------------------------------------- parquet


def read_parquet(table: Table) -> Iterator[Document]:
    with pyarrow.parquet.ParquetFile(table.path, buffer_size=CHUNK, pre_buffer=False) as file:
        columns = find_columns(file.schema_arrow.names, table)
        kind = file.schema_arrow.field(columns.text).type
        if pyarrow.types.is_dictionary(kind):
            kind = kind.value_type
        if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.null()):
            raise CorpusError(
                f"Column '{columns.text}' of {table.name} is {kind}, no text. --text-column names another."
            )
        table.findings.formats[f"Parquet, {columns}"] += 1
        wanted = list(dict.fromkeys(name for name in columns if name is not None))
        number = 0
        for batch in file.iter_batches(BATCH_DOCUMENTS, columns=wanted, use_threads=False):
            empty = [None] * len(batch)
            texts = batch.column(columns.text).cast(pyarrow.string()).to_pylist()
            titles = batch.column(columns.title).to_pylist() if columns.title is not None else empty
            labels = batch.column(columns.label).to_pylist() if columns.label is not None else empty
            for text, title, label in zip(texts, titles, labels):
                number += 1
                if text and not text.isspace():
                    yield make_document(str(number), text, title, label)
                else:
                    table.findings.left_out["rows without text"] += 1
