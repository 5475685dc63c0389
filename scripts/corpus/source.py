"""Read a corpus in batches: documents with their titles and, where there are some, their labels."""

import argparse
import itertools
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from command_line import encoding
from corpus.builtin import read_aws_docs, read_newsgroups
from corpus.csv_rows import QUOTES
from corpus.documents import DEFAULT_ENDPOINT, Batch, CorpusError, Document, Findings, Options, in_batches
from corpus.files import read_files
from corpus.languages import warn_of_languages
from corpus.tables import KIND_NAMES

BUILTIN = ("20newsgroups", "aws-docs")
DETECT = Options()

log = logging.getLogger("text_clustering")


class Corpus(NamedTuple):
    """Documents in memory, as columns of the same length."""

    name: str
    documents: list[str]
    titles: list[str]
    labels: list[str | None] | None  # None as a whole if there are fewer than two different ones
    identities: list[str]
    dates: list[datetime | None] | None  # None as a whole if there are none

    def as_batch(self) -> Batch:
        labels = self.labels or [None] * len(self.documents)
        return Batch(self.identities, self.documents, self.titles, labels, self.dates)

    def select(self, chosen: np.ndarray) -> "Corpus":
        """The documents at the chosen positions, or where a mask of shape (documents,) is true."""
        places = np.arange(len(self.documents))[chosen].tolist()
        labels = self.labels and [self.labels[place] for place in places]
        dates = self.dates and [self.dates[place] for place in places]
        documents, titles, identities = (
            [column[place] for place in places] for column in (self.documents, self.titles, self.identities)
        )
        return Corpus(self.name, documents, titles, labels, identities, dates)


class Source:
    """The documents that --dataset names, read in batches; each reading starts at the beginning."""

    def __init__(self, *datasets: str, data_home: str | None = None, options: Options = DETECT) -> None:
        self.datasets, self.data_home, self.options = datasets, data_home, options
        self.name = " ".join(datasets)
        self.findings = Findings()

    def batches(self) -> Iterator[Batch]:
        """Read all documents.

        Raises:
            CorpusError: they cannot be read; the message says where and why.
            StoreError: the S3 store cannot be read.
        """
        self.findings = Findings()
        yield from in_batches(self.documents(self.datasets))
        if self.options.since and not self.findings.has_records:
            raise CorpusError(f"--since is for recorded requests, and {self.name} has none.")

    def documents(self, datasets: tuple[str, ...]) -> Iterator[Document]:
        if datasets == ("20newsgroups",):
            yield from read_newsgroups(self.data_home)
        elif datasets == ("aws-docs",):
            yield from read_aws_docs()
        elif len(datasets) > 1 and any(name.startswith("s3://") or name in BUILTIN for name in datasets):
            for name in datasets:
                for document in self.documents((name,)):
                    yield document._replace(identity=f"{name}:{document.identity}")
        else:
            yield from read_files(datasets, self.options, self.findings)


def add_dataset_options(parser: argparse._ActionsContainer, **dataset: Any) -> None:
    """Add the options that say which documents are read, and how.

    Args:
        dataset: keyword arguments of add_argument for --dataset, such as its default.
    """
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="DATASET",
        help=f"20newsgroups (downloaded once), aws-docs (needs no network), a file ({KIND_NAMES}), several of them or a "
        "glob, a folder of such files, of texts or of e-mails (one subfolder per label, or flat), or s3://bucket/prefix, "
        "such as the requests that a service has recorded: s3://NAME-requests/NAMESPACE/NAME/",
        **dataset,
    )
    parser.add_argument("--data-home", help="where scikit-learn keeps 20 Newsgroups (default: its own cache)")
    add_column_options(parser)
    parser.add_argument("--encoding", type=encoding, help="encoding of the files (default: detected)")
    parser.add_argument("--separator", type=separator, help="separator of the cells of a table (default: detected)")
    parser.add_argument(
        "--quotes",
        choices=QUOTES,
        help="how a quote is written inside the cells of a table: twice, after a backslash, or like any other character "
        "(default: detected)",
    )
    parser.add_argument(
        "--since",
        type=time_ago,
        metavar="AGE",
        help="of the requests that a service has recorded, only those of this period, such as 14d or 12h (default: all)",
    )
    parser.add_argument("--s3-endpoint", metavar="URL", default=DEFAULT_ENDPOINT, help="store of an s3:// address")


def add_column_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--text-column",
        metavar="NAME",
        help="column with the text (default: text): a name, a path such as _source.text, a number in a table without "
        "header line, or several of these, separated by commas",
    )
    parser.add_argument(
        "--title-column", metavar="NAME", help="column with the title (default: title, if there is one)"
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="column with the label (default: label, if there is one)"
    )
    parser.add_argument(
        "--date-column",
        metavar="NAME",
        help="column with the date: ISO 8601, or seconds since 1970 (default: date, created, timestamp or the like, if "
        "there is one)",
    )


def separator(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not one character, nor the word tab")
    return text


def time_ago(text: str) -> datetime:
    """The time that was a period ago, such as 14d or 12h. Raises ArgumentTypeError for anything else."""
    found = re.fullmatch(r"(\d{1,5})([dhm])", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"'{text}' is not a period such as 14d, 12h or 30m")
    unit = {"d": "days", "h": "hours", "m": "minutes"}[found[2]]
    return datetime.now(UTC) - timedelta(**{unit: int(found[1])})


def source_of(arguments: argparse.Namespace) -> Source:
    """The source that the options name."""
    options = Options(**{name: getattr(arguments, name) for name in Options._fields})
    return Source(*arguments.dataset, data_home=arguments.data_home, options=options)


def load_corpus(dataset: str, data_home: str | None = None, options: Options = DETECT) -> Corpus:
    """Load all that --dataset names into memory."""
    return draw_sample(Source(dataset, data_home=data_home, options=options), sys.maxsize, 0)[0]


def draw_sample(source: Source, size: int, seed: int) -> tuple[Corpus, int]:
    """Draw documents uniformly at random in one pass; all of them if there are no more than that.

    Algorithm R, Vitter, "Random sampling with a reservoir", ACM Transactions on Mathematical Software 11, 1985.

    Returns:
        The sample, in the order of the corpus, and the number of documents in the corpus.

    Raises:
        CorpusError: the corpus cannot be read, or has no documents.
    """
    random = np.random.default_rng(seed)
    reservoir: list[tuple] = []
    count = 0
    for batch in source.batches():
        dates = batch.dates or itertools.repeat(None)
        for row in zip(range(count, count + len(batch.documents)), *batch[:-1], dates):
            if len(reservoir) < size:
                reservoir.append(row)
            elif (place := int(random.integers(row[0] + 1))) < size:
                reservoir[place] = row
        count += len(batch.documents)
    source.findings.log(source.name)
    if not count:
        raise CorpusError(f"{source.name} has no document with text in it.")
    reservoir.sort()
    _, identities, documents, titles, labels, dates = map(list, zip(*reservoir))
    warn_of_languages(source.name, documents)
    names = set(labels) - {None}
    if len(names) == 1:
        log.warning("%s has one label only, '%s': nothing to compare the clusters with", source.name, *names)
    return Corpus(
        source.name, documents, titles, labels if len(names) > 1 else None, identities, dates if any(dates) else None
    ), count
