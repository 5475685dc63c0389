"""Read a corpus in batches: documents with their titles and, where there are some, their labels."""

import argparse
import contextlib
import html
import logging
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import botocore.loaders
import numpy as np
from sklearn.datasets import fetch_20newsgroups, get_data_home

from command_line import encoding
from corpus.documents import DEFAULT_ENDPOINT, Batch, CorpusError, Document, Findings, Options, in_batches
from corpus.files import read_files
from corpus.tables import KIND_NAMES

DETECT = Options()
AWS_SERVICES = 20
NEWSGROUPS_ARCHIVE_MB = 14.5

log = logging.getLogger("text_clustering")


class Corpus(NamedTuple):
    """Documents in memory with their titles and, where the corpus has them, their labels; all of the same length."""

    name: str
    documents: list[str]
    titles: list[str]
    labels: list[str | None] | None  # None as a whole: there are not two different ones
    identities: list[str] | None = None

    def as_batch(self) -> Batch:
        return Batch(self.identities, self.documents, self.titles, self.labels or [None] * len(self.documents))

    def select(self, chosen: np.ndarray) -> "Corpus":
        """The documents at the chosen positions, or where a mask of shape (documents,) is true."""
        places = np.arange(len(self.documents))[chosen].tolist()
        columns = (None if column is None else [column[place] for place in places] for column in self[1:])
        return Corpus(self.name, *columns)


class Source:
    """What --dataset names, to be read in batches, from the beginning each time."""

    def __init__(self, *datasets: str, data_home: str | None = None, options: Options = DETECT):
        self.datasets, self.data_home, self.options = datasets, data_home, options
        self.name = " ".join(datasets)
        self.findings = Findings()

    def batches(self) -> Iterator[Batch]:
        """Read all documents.

        Raises:
            CorpusError: they cannot be read; the message says where and why.
        """
        self.findings = Findings()
        if self.datasets == ("20newsgroups",):
            documents = rows_of(load_newsgroups(self.data_home))
        elif self.datasets == ("aws-docs",):
            documents = rows_of(load_aws_docs())
        else:
            documents = read_files(self.datasets, self.options, self.findings)
        return in_batches(documents)


def add_dataset_options(parser: argparse.ArgumentParser, **dataset):
    """The options that say which documents are read, and how.

    Args:
        dataset: what add_argument takes for --dataset, such as its default.
    """
    parser.add_argument(
        "--dataset",
        nargs="+",
        metavar="DATASET",
        help=f"20newsgroups (downloaded once), aws-docs (needs no network), a file ({KIND_NAMES}), several of them or a "
        "glob, a folder of such files or of texts (one subfolder per label, or flat), or s3://bucket/prefix",
        **dataset,
    )
    parser.add_argument("--data-home", help="where scikit-learn keeps 20 Newsgroups (default: its own cache)")
    parser.add_argument("--text-column", metavar="NAME", help="column with the text (default: text)")
    parser.add_argument(
        "--title-column", metavar="NAME", help="column with the title (default: title, if there is one)"
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="column with the label (default: label, if there is one)"
    )
    parser.add_argument("--encoding", type=encoding, help="encoding of the files (default: detected)")
    parser.add_argument("--separator", type=separator, help="what separates the cells of a table (default: detected)")
    parser.add_argument("--s3-endpoint", metavar="URL", default=DEFAULT_ENDPOINT, help="store of an s3:// address")


def separator(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not one character, nor the word tab")
    return text


def source_of(arguments: argparse.Namespace) -> Source:
    """The source that the options name."""
    options = Options(**{name: getattr(arguments, name) for name in Options._fields})
    return Source(*arguments.dataset, data_home=arguments.data_home, options=options)


def rows_of(corpus: Corpus) -> Iterator[Document]:
    for number, row in enumerate(zip(corpus.documents, corpus.titles, corpus.labels), start=1):
        yield Document(str(number), *row)


def load_corpus(dataset: str, data_home: str | None = None, options: Options = DETECT) -> Corpus:
    """Load all that --dataset names into memory."""
    return draw_sample(Source(dataset, data_home=data_home, options=options), sys.maxsize, 0)[0]


def draw_sample(source: Source, size: int, seed: int) -> tuple[Corpus, int]:
    """Draw documents uniformly at random, while all are read once; where they are no more than that, all of them.

    Algorithm R, Vitter, "Random sampling with a reservoir", ACM Transactions on Mathematical Software 11, 1985.

    Returns:
        The sample, in the order of the corpus, and the number of documents in the corpus.

    Raises:
        CorpusError: the corpus cannot be read, or holds no document.
    """
    random = np.random.default_rng(seed)
    reservoir, count = [], 0
    for batch in source.batches():
        for row in zip(range(count, count + len(batch.documents)), *batch):
            if len(reservoir) < size:
                reservoir.append(row)
            elif (place := int(random.integers(row[0] + 1))) < size:
                reservoir[place] = row
        count += len(batch.documents)
    source.findings.log(source.name)
    if not count:
        raise CorpusError(f"{source.name} has no document with text in it.")
    reservoir.sort()
    _, identities, documents, titles, labels = map(list, zip(*reservoir))
    names = set(labels) - {None}
    if len(names) == 1:
        log.warning("%s has one label only, '%s': nothing to compare the clusters with", source.name, *names)
    return Corpus(source.name, documents, titles, labels if len(names) > 1 else None, identities), count


def load_newsgroups(data_home: str | None) -> Corpus:
    """All 18,846 posts of 20 Newsgroups. The title is the subject, the label is the group."""
    archive = Path(get_data_home(data_home)) / "20news_home" / "20news-bydate.tar.gz"
    socket.setdefaulttimeout(60)  # scikit-learn's download has no limit of its own
    try:
        with download_progress(archive):
            posts = fetch_20newsgroups(subset="all", data_home=data_home)
    except OSError as error:
        raise CorpusError(
            f"20 Newsgroups could not be downloaded or stored ({error}). --dataset aws-docs needs no network."
        ) from error
    titles, documents = zip(*map(parse_post, posts.data))
    labels = [posts.target_names[target] for target in posts.target]
    return Corpus("20newsgroups", list(documents), list(titles), labels)


def parse_post(post: str) -> tuple[str, str]:
    """The subject of a post, and the document: subject and body.

    The other header lines (From, Organization, NNTP-Posting-Host ...) take no part: the text that a user sends
    later has none, and clusters of mail hosts are of no use to anybody.
    """
    header, _, body = post.partition("\n\n")
    subject = re.search(r"^Subject:[ \t]*(?:Re:[ \t]*)*(.*)$", header, re.MULTILINE | re.IGNORECASE)
    title = subject[1].strip() if subject else ""
    return title, f"{title}\n" * 3 + body  # the subject says more of the topic than any other line


@contextlib.contextmanager
def download_progress(archive: Path):
    """Log how far scikit-learn's download of an archive is, every two seconds for as long as it is under way."""
    finished = threading.Event()

    def report():
        while not finished.wait(2):
            if archive.exists():
                log.info(
                    "Downloading 20 Newsgroups: %.1f of %.1f MB", archive.stat().st_size / 1e6, NEWSGROUPS_ARCHIVE_MB
                )

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def load_aws_docs() -> Corpus:
    """The documentation of the operations of the AWS services with the most of them, as botocore ships it.

    A corpus for a machine without network. The title is the operation, the label is the service.
    """
    loader = botocore.loaders.Loader()
    log.info("Reading the service models of botocore")
    operations = {
        service: loader.load_service_model(service, "service-2")["operations"]
        for service in loader.list_available_services("service-2")
    }
    largest = sorted(operations, key=lambda service: (-len(operations[service]), service))[:AWS_SERVICES]
    rows = [
        (strip_html(operation.get("documentation", "")), name, service)
        for service in largest
        for name, operation in sorted(operations[service].items())
    ]
    documents, titles, labels = zip(*(row for row in rows if row[0]))
    return Corpus("aws-docs", list(documents), list(titles), list(labels))


def strip_html(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", text)).strip()
