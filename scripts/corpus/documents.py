"""The parts of a corpus: documents, batches of them, and what reading them found."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from corpus.dates import read_date
from failure import BadInput

BATCH_DOCUMENTS = 4_096
BATCH_CHARACTERS = 4 * 2**20  # batches of long documents have fewer, so that memory does not depend on their length
TITLE_CHARACTERS = 80
LINE_CHARACTERS = 300
EXAMPLES = 3
REMARKS = 5
DEFAULT_ENDPOINT = "http://localhost:30100"  # of the platform's MinIO

log = logging.getLogger("text_clustering")


class CorpusError(BadInput):
    """The corpus cannot be read, or cannot be clustered as requested; the message says why and what to do."""


class Document(NamedTuple):
    identity: str  # the number of its row, or the path of its file
    text: str
    title: str
    label: str | None
    date: datetime | None = None  # in UTC


class Batch(NamedTuple):
    """Some documents, as columns of the same length."""

    identities: list[str]
    documents: list[str]
    titles: list[str]
    labels: list[str | None]
    dates: list[datetime | None] | None = None  # None as a whole if there are none


class Options(NamedTuple):
    """How to read files; None: detect it."""

    encoding: str | None = None
    separator: str | None = None
    quotes: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    title_column: str | None = None
    date_column: str | None = None
    s3_endpoint: str = DEFAULT_ENDPOINT
    since: datetime | None = None  # of recorded requests, only those that arrived since then


class Findings:
    """The formats that were detected in the files of a corpus, and what was left out of it."""

    def __init__(self) -> None:
        self.formats: Counter[str] = Counter()  # files by format
        self.left_out: Counter[str] = Counter()  # rows and files by reason
        self.examples: defaultdict[str, list[str]] = defaultdict(list)  # names of files by reason
        self.remarks: list[str] = []
        self.has_records = False  # whether there were recorded requests
        self.unreadable_dates = 0
        self.unreadable_date = ""  # the first

    def read_date(self, value: Any) -> datetime | None:
        """The date in a cell or header line; None if it is empty, or no date, which is counted."""
        try:
            return read_date(value)
        except ValueError:
            self.unreadable_dates += 1
            self.unreadable_date = self.unreadable_date or shorten(str(value))
            return None

    def leave_out(self, reason: str, name: str) -> None:
        """Count a file that is left out, and log its name at DEBUG."""
        self.left_out[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(name)
        log.debug("Left out: %s: %s", reason, name)

    def log(self, name: str) -> None:
        """Log the formats in one line, what was left out in another, and the remarks."""
        if self.formats.total() == 1:
            log.info("%s: %s", name, *self.formats)
        elif self.formats:
            kinds = "; ".join(f"{count} x {kind}" for kind, count in self.formats.most_common())
            log.info("%s: files: %s", name, shorten(kinds))
        if +self.left_out:
            log.warning("%s: left out: %s", name, ", ".join(map(self.describe, +self.left_out)))
        if self.unreadable_dates:
            log.warning(
                "%s: %d dates cannot be read, such as %r: write them like 2026-11-29 or 2026-11-29T08:30:00Z",
                *(name, self.unreadable_dates, self.unreadable_date),
            )
        for remark in self.remarks[:REMARKS]:
            log.warning("%s", remark)
        if len(self.remarks) > REMARKS:
            log.warning("%s: %d more remarks of this kind", name, len(self.remarks) - REMARKS)

    def describe(self, reason: str) -> str:
        count, names = self.left_out[reason], self.examples[reason]
        more = ", ..." if count > len(names) else ""
        return f"{reason}: {count}" + (f" ({shorten(', '.join(names))}{more})" if names else "")


def make_document(
    identity: str, text: str, title: Any = None, label: Any = None, date: datetime | None = None
) -> Document:
    """A document; the default title is the first line, and a blank label is none."""
    title = valid_unicode(str(title)).strip() if title is not None else ""
    label = valid_unicode(str(label)).strip() if label is not None and label == label else ""  # nan is not itself
    return Document(identity, valid_unicode(text), title or valid_unicode(first_line(text)), label or None, date)


def in_batches(documents: Iterable[Document]) -> Iterator[Batch]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield as_batch(batch)
            batch, characters = [], 0
    if batch:
        yield as_batch(batch)


def as_batch(documents: list[Document]) -> Batch:
    identities, texts, titles, labels, dates = map(list, zip(*documents))
    return Batch(identities, texts, titles, labels, dates if any(dates) else None)


def valid_unicode(text: str) -> str:
    if text.isascii():
        return text
    return text.encode(errors="replace").decode()  # JSON can contain half a surrogate pair, UTF-8 cannot


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:TITLE_CHARACTERS]


def shorten(text: str) -> str:
    """A text that fits in a line of the log."""
    text = " ".join(text.split())
    return text if len(text) <= LINE_CHARACTERS else text[: LINE_CHARACTERS - 1] + "…"
