"""Read Parquet with Arrow."""

from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet

from corpus.columns import as_name, as_text, find_columns, value_at
from corpus.documents import BATCH_DOCUMENTS, CorpusError, Document, make_document
from corpus.encodings import CHUNK
from corpus.table import Table

TEXTS = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
BYTES = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_binary_view)


def read_parquet(table: Table) -> Iterator[Document]:
    """Read the documents of a Parquet file; columns may be inside structs and lists."""
    with pyarrow.parquet.ParquetFile(table.path, buffer_size=CHUNK, pre_buffer=False) as file:
        kinds = kinds_of(file.schema_arrow)
        columns = find_columns(kinds, table.options, table.name)
        for name in columns.text:
            if not is_text(kinds[name]):
                raise no_text(name, kinds, table.name)
        table.findings.formats[f"Parquet, {columns}"] += 1
        names = columns.names()
        top = list(dict.fromkeys(next(n for n in file.schema_arrow.names if is_in(name, n)) for name in names))
        number = 0
        for batch in file.iter_batches(BATCH_DOCUMENTS, columns=top, use_threads=False):
            cells = {name: values_of(batch, name) for name in names}
            for place in range(len(batch)):
                number += 1
                texts = [text for name in columns.text if (text := as_text(cells[name][place])) and not text.isspace()]
                if not texts:
                    table.findings.left_out["rows without text"] += 1
                    continue
                title, label = (
                    None if name is None else as_name(cells[name][place]) for name in (columns.title, columns.label)
                )
                date = None if columns.date is None else table.findings.read_date(cells[columns.date][place])
                yield make_document(str(number), "\n".join(texts), title, label, date)


def values_of(batch: pyarrow.RecordBatch, path: str) -> list[Any]:
    """The values of a column, or of the fields at a dotted path, as Python objects."""
    name = next(name for name in batch.schema.names if is_in(path, name))
    column = batch.column(name)
    if any(is_kind(column.type) for is_kind in BYTES):
        column = column.cast(pyarrow.string())
    if pyarrow.types.is_timestamp(column.type):  # Python's have no nanoseconds
        column = column.cast(pyarrow.timestamp("us", column.type.tz), safe=False)
    values: list[Any] = column.to_pylist()
    return values if path == name else [value_at(value, path[len(name) + 1 :]) for value in values]


def is_in(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def kinds_of(schema: pyarrow.Schema) -> dict[str, pyarrow.DataType]:
    """The types of all columns, and of the fields inside them by their dotted paths."""
    return {path: kind for column in schema for path, kind in fields_of(column.name, column.type)}


def fields_of(path: str, kind: pyarrow.DataType) -> Iterator[tuple[str, pyarrow.DataType]]:
    yield path, kind
    inner = item_of(kind)
    if pyarrow.types.is_struct(inner):
        for place in range(inner.num_fields):
            yield from fields_of(f"{path}.{inner.field(place).name}", inner.field(place).type)


def item_of(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The type of the innermost items of lists, and of the values of a dictionary."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind


def is_text(kind: pyarrow.DataType) -> bool:
    item = item_of(kind)
    return pyarrow.types.is_null(item) or any(is_kind(item) for is_kind in (*TEXTS, *BYTES))


def no_text(name: str, kinds: dict[str, pyarrow.DataType], table: str) -> CorpusError:
    paths = [path for path, kind in kinds.items() if path.startswith(f"{name}.") and is_text(kind)]
    hint = f"--text-column names a part of it: {', '.join(paths)}" if paths else "--text-column names another"
    return CorpusError(f"Column '{name}' of {table} is {kinds[name]}, no text. {hint}.")
