"""Find the columns of a table that documents are made of, also inside nested values."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from corpus import dates
from corpus.documents import CorpusError, Options, shorten

# Parts of names that columns with texts often have.
LIKELY = [
    "text",
    "body",
    "content",
    "message",
    "description",
    "comment",
    "review",
    "title",
    "subject",
    "summary",
    "question",
    "answer",
    "abstract",
    "note",
    "feedback",
    "transcript",
    "document",
    "article",
    "post",
]
DATA_CHARACTERS = 40  # a longer name is more likely a value: the table has no header line


class MissingColumn(CorpusError):
    """A table has no column with the text, or none that the user named."""


class Columns(NamedTuple):
    """The columns that documents are made of, under the names that the table gives them."""

    text: tuple[str, ...]  # texts of several columns are joined by a line break
    title: str | None
    label: str | None
    date: str | None

    def names(self) -> list[str]:
        """The columns, each once."""
        found = (*self.text, self.title, self.label, self.date)
        return list(dict.fromkeys(name for name in found if name is not None))

    def __str__(self) -> str:
        places = {"text": ", ".join(self.text), "title": self.title, "label": self.label, "date": self.date}
        return ", ".join(f"{role} in '{name}'" for role, name in places.items() if name)


def find_columns(examples: Mapping[str, Any], options: Options, table: str) -> Columns:
    """Find the columns of a table by their names, without regard to case and spaces, or by their numbers.

    Args:
        examples: a value of each column, by its name.
        table: the name of the table, for messages.

    Raises:
        MissingColumn: there is no column with the text, or none that the user named.
        CorpusError: several columns fit.
    """
    names = list(examples)
    wanted = options.text_column or "text"
    whole = find_column(names, wanted, "--text-column", table)
    parts = [whole] if whole else [find_column(names, part, "--text-column", table) for part in wanted.split(",")]
    missing = [part for part, name in zip([wanted] if whole else wanted.split(","), parts) if name is None]
    if missing:
        raise missing_column(missing[0].strip(), "--text-column", examples, table)
    found = []
    for role, option in (("title", options.title_column), ("label", options.label_column)):
        found.append(find_column(names, option or role, f"--{role}-column", table))
        if option and found[-1] is None:
            raise missing_column(option, f"--{role}-column", examples, table)
    found.append(find_date_column(names, options.date_column, table))
    if options.date_column and found[-1] is None:
        raise missing_column(options.date_column, "--date-column", examples, table)
    return Columns(tuple(name for name in parts if name), *found)


def find_column(names: list[str], wanted: str, option: str, table: str) -> str | None:
    if wanted in names:
        return wanted
    found = [name for name in names if squeeze(name) == squeeze(wanted)]
    if len(found) > 1:
        raise CorpusError(f"{table} has the columns {shorten(', '.join(found))}: choose one with {option}.")
    if not found and wanted.strip().isdecimal() and 1 <= int(wanted) <= len(names):
        return names[int(wanted) - 1]
    return found[0] if found else None


def find_date_column(names: list[str], wanted: str | None, table: str) -> str | None:
    """The column with the dates, or else the first whose name is one of those that such columns usually have."""
    if wanted:
        return find_column(names, wanted, "--date-column", table)
    plain = {name: squeeze(name).replace("_", "").replace("-", "") for name in names}
    return next((name for usual in dates.NAMES for name in names if plain[name] == usual), None)


def squeeze(name: str) -> str:
    return "".join(name.split()).casefold()


def missing_column(wanted: str, option: str, examples: Mapping[str, Any], table: str) -> MissingColumn:
    """The error that lists the columns of a table, first those that are likely to contain texts."""
    names = sorted(examples, key=lambda name: likelihood(name, examples[name]), reverse=True)
    hint = f"Name the right one with {option}"
    if any(looks_like_data(name) for name in names):
        number = list(examples).index(names[0]) + 1
        hint = f"Has it no header line? Then give the columns by their numbers, such as {option} {number}"
    return MissingColumn(f"{table} has no column '{wanted}'; it has: {shorten(', '.join(names))}. {hint}.")


def likelihood(name: str, value: Any) -> tuple[bool, int]:
    length = len(value) if isinstance(value, str) else 0
    return any(word in name.casefold() for word in LIKELY), max(length, len(name) if looks_like_data(name) else 0)


def looks_like_data(name: str) -> bool:
    return len(name) > DATA_CHARACTERS or not name.strip() or name.strip().replace(".", "").isdecimal()


# -------------------------------------------------------------------------------------------------- nested values


def value_at(row: Any, path: str) -> Any:
    """The value at a dotted path, such as _source.text; of a list the values of all its items.

    Returns:
        None if there is nothing at the path.
    """
    if isinstance(row, list):
        values = (value_at(item, path) for item in row)
        return [value for value in values if value is not None] or None
    if not isinstance(row, dict):
        return None
    if path in row:
        return row[path]
    for name, value in row.items():
        if squeeze(name) == squeeze(path):
            return value
        if squeeze(path).startswith(f"{squeeze(name)}.") and (found := value_at(value, rest(path, name))) is not None:
            return found
    return None


def rest(path: str, name: str) -> str:
    """The part of a dotted path behind a name."""
    return squeeze(path)[len(squeeze(name)) + 1 :]


def leaves(row: Any, prefix: str = "") -> dict[str, Any]:
    """The values inside a row that are neither objects nor lists of objects, by their dotted paths."""
    if isinstance(row, list) and any(isinstance(item, dict) for item in row):
        found: dict[str, Any] = {}
        for item in row:
            found = leaves(item, prefix) | found
        return found
    if isinstance(row, dict):
        return {path: leaf for name, value in row.items() for path, leaf in leaves(value, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): row}


def as_text(value: Any) -> str | None:
    """The text of a value: a string, or the strings of a list, one per line; None if there is none.

    Raises:
        TypeError: it is a number or an object.
    """
    if value is None or value != value:  # NaN, as pandas writes a missing value
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts: Iterable[str | None] = map(as_text, value)
        return "\n".join(text for text in texts if text) or None
    raise TypeError(f"{type(value).__name__} is no text")


def as_name(value: Any) -> Any:
    """A title or label; those of a list are joined."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value
