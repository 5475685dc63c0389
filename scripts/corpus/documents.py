"""What a corpus is made of: batches of documents, and what was found while they were read."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from failure import BadInput

BATCH_DOCUMENTS = 4_096
BATCH_CHARACTERS = 4 * 2**20  # of long documents a batch has fewer: what is in memory does not depend on their length
TITLE = 80
LINE = 300
DEFAULT_ENDPOINT = "http://localhost:30100"  # of the platform's MinIO

log = logging.getLogger("text_clustering")


class CorpusError(BadInput):
    """The corpus cannot be had, or cannot be clustered as asked; the message says why and what to do."""


class Document(NamedTuple):
    identity: str  # the number of its row, or the path of its file
    text: str
    title: str
    label: str | None


class Batch(NamedTuple):
    """Some documents, as columns of the same length."""

    identities: list[str]
    documents: list[str]
    titles: list[str]
    labels: list[str | None]


class Options(NamedTuple):
    """How files are read where what is detected is not what is meant; None: detect it."""

    encoding: str | None = None
    separator: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    title_column: str | None = None
    s3_endpoint: str = DEFAULT_ENDPOINT


class Findings:
    """What was detected in the files of a corpus, and what was left out of it."""

    def __init__(self):
        self.formats = Counter()  # files by what was detected in them
        self.left_out = Counter()  # rows and files by the reason
        self.remarks = []

    def log(self, name: str):
        """Log what was detected in one line, and in another what was left out."""
        if self.formats.total() == 1:
            log.info("%s: %s", name, *self.formats)
        elif self.formats:
            kinds = "; ".join(f"{count} x {kind}" for kind, count in self.formats.most_common())
            log.info("%s: files: %s", name, shorten(kinds))
        if +self.left_out:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in (+self.left_out).most_common())
            log.warning("%s: left out: %s", name, reasons)
        for remark in self.remarks[:5]:
            log.warning("%s", remark)
        if len(self.remarks) > 5:
            log.warning("%s: %d more remarks of this kind", name, len(self.remarks) - 5)


def make_document(identity: str, text: str, title=None, label=None) -> Document:
    """A document; without a title of its own it gets its first line, and a blank label is none."""
    title = valid_unicode(str(title)).strip() if title is not None else ""
    label = valid_unicode(str(label)).strip() if label is not None and label == label else ""  # nan is not itself
    return Document(identity, valid_unicode(text), title or valid_unicode(first_line(text)), label or None)


def in_batches(documents: Iterable[Document]) -> Iterator[Batch]:
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield Batch(*map(list, zip(*batch)))
            batch, characters = [], 0
    if batch:
        yield Batch(*map(list, zip(*batch)))


def valid_unicode(text: str) -> str:
    return text.encode(errors="replace").decode()  # JSON can hold half a surrogate pair, UTF-8 cannot


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:TITLE]


def shorten(text: str) -> str:
    """A text that fits in a line of the log."""
    text = " ".join(text.split())
    return text if len(text) <= LINE else text[: LINE - 1] + "…"
