"""Read .csv and .tsv tables with Python's own strict reader.

Arrow and DuckDB were tried: Arrow takes a quote that never closes for one long cell and silently loses the rows behind
it, DuckDB takes a table with a stray comma for one of a single column, and neither detects Windows-1252.
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from corpus.columns import find_columns, squeeze
from corpus.compression import without_suffix
from corpus.documents import CorpusError, Document, make_document
from corpus.table import Table

SEPARATORS = [",", ";", "\t", "|"]
LARGEST_CELL = 16 * 2**20  # characters; without a limit, a quote that never closes swallows the rest of the file
EXAMPLE_ROWS = 20
HEADER_LINES = 20

# How a quote inside a cell is written, by the values of --quotes.
QUOTES: dict[str, dict[str, Any]] = {
    "double": {"strict": True},
    "backslash": {"strict": True, "escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}
QUOTE_NAMES = {"double": "", "backslash": ", quotes after a backslash", "none": ", no quotes"}

OpenText = Callable[[], AbstractContextManager[TextIO]]


class Header(NamedTuple):
    names: list[str]
    separator: str
    lines: int  # lines up to the first row
    quotes: str = "double"


def read_csv(table: Table, encoding: str, open_text: OpenText) -> Iterator[Document]:
    """Read a table whose cells are separated by a comma, a semicolon, a tab or a bar."""
    csv.field_size_limit(LARGEST_CELL)
    with open_text() as lines:
        header = read_header(lines, table)
    if header is None:
        return
    header = header._replace(quotes=choose_quotes(header, table, open_text))
    with open_text() as lines:
        rows = [row for _, _, row in itertools.islice(numbered_rows(lines, header, table), EXAMPLE_ROWS)]
    longest = [max(cells, key=len) for cells in itertools.zip_longest(*rows, fillvalue="")]
    examples = dict(zip(header.names, itertools.chain(longest, itertools.repeat(""))))
    columns = find_columns(examples, table.options, table.name)
    table.findings.formats[
        f"table, {encoding}, separator {name_of(header.separator)}{QUOTE_NAMES[header.quotes]}, {columns}"
    ] += 1
    text_places = [header.names.index(name) for name in columns.text]
    title_place, label_place, date_place = (
        None if name is None else header.names.index(name) for name in (columns.title, columns.label, columns.date)
    )
    with open_text() as lines:
        for number, (_, row) in enumerate(csv_rows(lines, header, table), start=1):
            text = "\n".join(filter(str.strip, [row[place] for place in text_places]))
            if not text:
                table.findings.left_out["rows without text"] += 1
                continue
            title, label = (None if place is None else row[place] for place in (title_place, label_place))
            date = None if date_place is None else table.findings.read_date(row[date_place])
            yield make_document(str(number), text, title, label, date)


def read_header(lines: TextIO, table: Table) -> Header | None:
    """Find the header and the separator: the one with which the header has the text column, or else most columns.

    A table whose text column is given by its number has no header line: its columns are called 1, 2, ...

    Returns:
        None for an empty file.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    number, first = next(numbered, (0, ""))
    separator = table.options.separator
    if first.casefold().startswith("sep=") and len(first.strip("\r\n")) == 5:  # written for Excel
        separator = separator or first[4]
        number, first = next(numbered, (0, ""))
    if not first:
        return None
    tabbed = Path(without_suffix(table.name.casefold())).suffix in (".tsv", ".txt")
    candidates = [separator] if separator else ["\t", *SEPARATORS] if tabbed else SEPARATORS
    wanted = [squeeze(name) for name in (table.options.text_column or "text").split(",")]
    headers = {candidate: split_header(first, candidate, table) for candidate in candidates}
    separator = max(headers, key=lambda s: (wanted[0] in map(squeeze, headers[s]), len(headers[s])))
    names = headers[separator]
    if all(name.isdecimal() for name in wanted) and not set(wanted) <= set(map(squeeze, names)):
        return Header([str(place) for place in range(1, len(names) + 1)], separator, number - 1)
    if first.count('"') % 2 and table.options.quotes != "none":  # a name over several lines
        reader = csv.reader(itertools.chain([first], itertools.islice(lines, HEADER_LINES)), delimiter=separator)
        return Header(next(reader), separator, number - 1 + reader.line_num)
    return Header(names, separator, number)


def split_header(line: str, separator: str, table: Table) -> list[str]:
    return next(
        csv.reader([line], delimiter=separator, **{**QUOTES[table.options.quotes or "double"], "strict": False})
    )


def choose_quotes(header: Header, table: Table, open_text: OpenText) -> str:
    """Find out how quotes are written, by reading the whole table.

    Raises:
        CorpusError: the table can be read in no way; the message names the line.
    """
    if table.options.quotes:
        return table.options.quotes
    with open_text() as lines:
        escaped = any('\\"' in line for line in lines)
    if not escaped and header.separator != "\t":
        return "double"
    try:
        merged = count_merged_lines(header, table, open_text)
        failure = None
    except CorpusError as error:
        merged, failure = 0, error
    if failure is None and not merged:
        return "double"
    if header.separator == "\t" and is_written_without_quotes(header, open_text):
        return "none"
    if failure is None:
        return "double"
    if not escaped:
        raise failure
    try:
        count_merged_lines(header._replace(quotes="backslash"), table, open_text)
    except CorpusError:
        raise failure from None
    return "backslash"


def count_merged_lines(header: Header, table: Table, open_text: OpenText) -> int:
    """The number of lines that continue a cell of the line before; reads the whole table."""
    with open_text() as lines:
        return sum(last - line for line, last, _ in numbered_rows(lines, header, table))


def is_written_without_quotes(header: Header, open_text: OpenText) -> bool:
    """Whether each line has as many cells as the header if quotes are nothing but characters."""
    with open_text() as lines:
        rows = itertools.islice(lines, header.lines, None)
        return all(line.count(header.separator) == len(header.names) - 1 for line in rows if line.strip())


def csv_rows(lines: Iterable[str], header: Header, table: Table) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its first line and as many cells as the header."""
    short = []
    for line, _, row in numbered_rows(lines, header, table):
        if len(row) < len(header.names):
            short.append(line)
            row += [""] * (len(header.names) - len(row))
        yield line, row
    if short:
        table.findings.remarks.append(
            f"{table.name}: {len(short)} rows have fewer cells than the header, the first in line {short[0]}"
        )


def numbered_rows(lines: Iterable[str], header: Header, table: Table) -> Iterator[tuple[int, int, list[str]]]:
    """The rows that are not blank, with the numbers of their first and last line.

    Raises:
        CorpusError: a row has more cells than the header, or is damaged.
    """
    width = len(header.names)
    lines = itertools.islice(lines, header.lines, None)
    reader = csv.reader(lines, delimiter=header.separator, **QUOTES[header.quotes])
    while True:
        line = header.lines + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(f"{table.name}, line {line}: {explain(error)}") from error
        if len(row) > width and any(map(str.strip, row[width:])):
            raise CorpusError(
                f"{table.name}, line {line}: {len(row)} cells where the header has {width}. Put a cell that contains a "
                f"{name_of(header.separator)} in double quotes, or name another separator with --separator."
            )
        if row:
            yield line, header.lines + reader.line_num, row


def explain(error: csv.Error) -> str:
    reason = {
        "unexpected end of data": "a double quote opens a cell and never closes",
        f"field larger than field limit ({LARGEST_CELL})": f"a cell of more than {LARGEST_CELL} characters, perhaps a "
        "double quote that never closes",
    }.get(str(error), f"a double quote closes before the end of its cell ({error})")
    return (
        f'{reason}. Write a quote inside a quoted cell twice; --quotes backslash reads \\" as one, and --quotes none '
        "takes all quotes as they are."
    )


def name_of(separator: str) -> str:
    return "tab" if separator == "\t" else f"'{separator}'"
