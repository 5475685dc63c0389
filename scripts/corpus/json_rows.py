"""Read JSON: an object per line, objects over several lines, or one value that contains all rows.

That value may be an array of objects, an object with such an array somewhere inside, as web services answer, or any
orientation of pandas' DataFrame.to_json:

    records, table   [{"text": "..."}, ...] and {"schema": ..., "data": [{"text": "..."}, ...]}
    split            {"columns": ["text"], "index": [0, ...], "data": [["..."], ...]}
    index            {"0": {"text": "..."}, ...}
    columns          {"text": {"0": "...", ...}, ...}
    values           [["..."], ...], whose columns are called 1, 2, ...
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TextIO

import ijson

from corpus.columns import as_name, as_text, find_column, find_columns, find_date_column, leaves, value_at
from corpus.documents import CorpusError, Document, Options, make_document, shorten
from corpus.encodings import CHUNK
from corpus.recorded_requests import read_records, split_records
from corpus.table import Table

SAMPLE_KEYS = 10_000

OpenText = Callable[[], AbstractContextManager[TextIO]]
# For each row its place in the file, for messages, and its value.
Rows = Iterator[tuple[str, Any]]


class Places(NamedTuple):
    """The names or paths of the columns in a row; None: it cannot have that column."""

    text: list[str]
    title: str | None
    label: str | None
    date: str | None


def read_json(table: Table, encoding: str, open_text: OpenText) -> Iterator[Document]:
    """Read the documents of a JSON file."""
    shape, rows = find_shape(table, open_text)
    are_records, rows = split_records(rows)
    if are_records:
        table.findings.formats["recorded requests"] += 1
        table.findings.has_records = True
        yield from read_records(rows, table)
        return
    places: dict[tuple[str, ...], Places] = {}
    examples: dict[str, Any] = {}
    for number, (where, row) in enumerate(rows, start=1):
        if isinstance(row, list):
            row = numbered(row)
        if not isinstance(row, dict):
            raise CorpusError(f"{where} of {table.name} is {shorten(json.dumps(row))}: expected an object.")
        names = tuple(row)
        if names not in places:
            places[names] = find_places(list(names), table)
            examples |= row | leaves(row)
        text_places, title_place, label_place, date_place = places[names]
        texts = [text for place in text_places if (text := text_at(row, place, where, table))]
        if not texts:
            table.findings.left_out["rows without text"] += 1
            continue
        title = None if title_place is None else as_name(field(row, title_place))
        label = None if label_place is None else as_name(field(row, label_place))
        date = None if date_place is None else table.findings.read_date(field(row, date_place))
        yield make_document(str(number), "\n".join(texts), title, label, date)
    if examples:
        columns = find_columns(examples, table.options, table.name)
        table.findings.formats[f"JSON, {shape}, {encoding}, {columns}"] += 1


def find_places(names: list[str], table: Table) -> Places:
    """Find the columns of a row by its names. Of the names that it has not, those with a dot may be paths inside it."""

    def place(wanted: str, option: str) -> str | None:
        return find_column(names, wanted, option, table.name) or (wanted if "." in wanted else None)

    text = table.options.text_column or "text"
    whole = find_column(names, text, "--text-column", table.name)
    parts = [whole] if whole else [place(part.strip(), "--text-column") for part in text.split(",")]
    title = place(table.options.title_column or "title", "--title-column")
    label = place(table.options.label_column or "label", "--label-column")
    wanted = table.options.date_column
    date = place(wanted, "--date-column") if wanted else find_date_column(names, None, table.name)
    return Places([part for part in parts if part is not None], title, label, date)


def text_at(row: dict[str, Any], place: str, where: str, table: Table) -> str | None:
    """The text at a place in a row; None if it is missing or blank. Raises CorpusError if it is no text."""
    value = field(row, place)
    try:
        text = as_text(value)
    except TypeError as error:
        raise no_text(where, table.name, place, value) from error
    return text if text and not text.isspace() else None


def field(row: dict[str, Any], path: str) -> Any:
    return row[path] if path in row else value_at(row, path)


def numbered(values: list[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values, start=1)}


def no_text(where: str, table: str, name: str, value: Any) -> CorpusError:
    """The error about a value that is no text, with the paths of texts inside it."""
    paths = [path for path in leaves({name: value}) if path != name]
    hint = f"--text-column names a part of it: {shorten(', '.join(paths))}" if paths else "--text-column names another"
    return CorpusError(f"{where} of {table} has in column '{name}' no text, but {shorten(json.dumps(value))}. {hint}.")


# ---------------------------------------------------------------------------------------------------------- shape


def find_shape(table: Table, open_text: OpenText) -> tuple[str, Rows]:
    """Find out how the rows lie in a file.

    Returns:
        The shape in words, and the rows.
    """
    with open_text() as text:
        head = text.read(CHUNK).lstrip()
    first, _, more = head.partition("\n")
    if not head.startswith(("{", "[")) or (more.strip() and is_json(first)):
        return "an object per line", json_lines(table, open_text)
    stream = functools.partial(stream_rows, table, open_text)
    sample, several = read_sample(head, open_text)
    if isinstance(sample, list):
        is_table = sample and isinstance(sample[0], list)
        return "an array of arrays" if is_table else "an array of objects", stream("item")
    if several or not isinstance(sample, dict):
        return "objects", stream("")
    return find_orientation(sample, table, open_text) or (
        "objects",
        json_lines(table, open_text) if is_json(first) else stream(""),
    )


def read_sample(head: str, open_text: OpenText) -> tuple[Any, bool]:
    """The first value in a file, with the first item only of large arrays, and whether there are more values.

    A damaged file gives an empty sample: reading its rows will report the damage.
    """
    empty: Any = [] if head.startswith("[") else None
    if len(head) < CHUNK:
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            return json.loads(head), False
    with open_text() as text:
        try:
            events = ijson.basic_parse(ijson.from_iter(in_chunks_of_bytes(text)), use_float=True, multiple_values=True)
            sample = sample_of(events, next(events))
            return sample, isinstance(sample, dict) and next(events, None) is not None
        except (ijson.JSONError, StopIteration, RecursionError, UnicodeDecodeError):
            return empty, False


def find_orientation(sample: dict[str, Any], table: Table, open_text: OpenText) -> tuple[str, Rows] | None:
    """Find the rows inside the only object of a file; None if it is itself a row."""
    stream = functools.partial(stream_rows, table, open_text)
    values = list(sample.values())
    objects = bool(values) and all(isinstance(value, dict) for value in values)
    text = wanted_value(sample, table.options)
    if objects and isinstance(text, dict):
        return "an object of columns", stream_columns(sample, table, open_text)
    if text is None and isinstance(sample.get("columns"), list) and isinstance(sample.get("data"), list):
        return "columns and data", stream_split(table, open_text)
    if text is None and objects and wanted_value(values[0], table.options) is not None:
        return "an object of objects", stream("", ijson.kvitems)
    if text is None and (path := path_of_rows(sample, table.options)):
        return f"an array of objects in '{path}'", stream(f"{path}.item")
    return None


def wanted_value(row: Any, options: Options) -> Any:
    """A value of a row at the name or path of the text column."""
    wanted = options.text_column or "text"
    found = (value_at(row, name.strip()) for name in [wanted, *wanted.split(",")])
    return next((value for value in found if value is not None), None)


def path_of_rows(value: Any, options: Options) -> str | None:
    """The path of the array of objects in which the text column is, or else of the first array of objects."""
    arrays = dict(arrays_of_objects(value, ""))
    with_text = (path for path, row in arrays.items() if wanted_value(row, options) is not None)
    return next(with_text, next(iter(arrays), None))


def arrays_of_objects(value: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arrays of objects inside an object: paths and first items."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from arrays_of_objects(inner, f"{prefix}{name}.")
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            yield f"{prefix}{name}", inner[0]


def sample_of(events: Iterator[tuple[str, Any]], event: tuple[str, Any]) -> Any:
    """The value that begins with an event, with the first item only of each array."""
    kind, value = event
    if kind == "start_array":
        first = next(events)
        if first[0] == "end_array":
            return []
        item = sample_of(events, first)
        skip_array(events)
        return [item]
    if kind != "start_map":
        return value
    found: dict[str, Any] = {}
    while (key := next(events))[0] == "map_key":
        inner = sample_of(events, next(events))
        if len(found) < SAMPLE_KEYS:
            found[key[1]] = inner
    return found


def skip_array(events: Iterator[tuple[str, Any]]) -> None:
    """Skip the events up to the end of the array that they are in."""
    depth = 1
    while depth:
        kind, _ = next(events)
        depth += kind.startswith("start_") - kind.startswith("end_")


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


# ----------------------------------------------------------------------------------------------------------- rows


def json_lines(table: Table, open_text: OpenText) -> Rows:
    with open_text() as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                try:
                    yield f"Line {number}", json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise CorpusError(f"{table.name} could not be read: line {number} is no JSON ({error}).") from error


def stream_rows(table: Table, open_text: OpenText, prefix: str, parse: Callable[..., Any] = ijson.items) -> Rows:
    """The values at a prefix one by one, because an array may be larger than the memory."""
    number = [0]
    with open_text() as text, errors_explained(table, number):
        options = {} if prefix or parse is ijson.kvitems else {"multiple_values": True}
        for value in parse(ijson.from_iter(in_chunks_of_bytes(text)), prefix, use_float=True, **options):
            number[0] += 1
            yield f"Row {number[0]}", value[1] if parse is ijson.kvitems else value


def stream_split(table: Table, open_text: OpenText) -> Rows:
    names = [str(name) for _, name in stream_rows(table, open_text, "columns.item")]
    for place, row in stream_rows(table, open_text, "data.item"):
        yield place, dict(zip(names, row)) if isinstance(row, list) else row


def stream_columns(sample: dict[str, Any], table: Table, open_text: OpenText) -> Rows:
    """The rows of columns that lie one after the other: each is streamed from a reader of its own."""
    found = find_columns(dict.fromkeys(sample, ""), table.options, table.name)
    names = found.names()
    columns = [stream_rows(table, open_text, name, ijson.kvitems) for name in names]
    for cells in zip(*columns):
        yield cells[0][0], dict(zip(names, (value for _, value in cells)))


@contextlib.contextmanager
def errors_explained(table: Table, number: list[int]) -> Iterator[None]:
    """Report a damaged file with the number of the last row that could be read."""
    try:
        yield
    except (ijson.JSONError, StopIteration, RecursionError) as error:
        raise CorpusError(
            f"{table.name} could not be read: in or behind row {number[0]}, {shorten(str(error)) or 'it ends'}."
        ) from error
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{table.name} could not be read: in or behind row {number[0]}, an escape such as \\ud800 is half a character."
        ) from error


def in_chunks_of_bytes(text: TextIO) -> Iterable[bytes]:
    return (chunk.encode(errors="replace") for chunk in iter(functools.partial(text.read, CHUNK), ""))
