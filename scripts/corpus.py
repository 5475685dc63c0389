"""Read a corpus: documents with their titles and, where there are some, their labels."""

import contextlib
import csv
import gzip
import html
import json
import logging
import re
import socket
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import botocore.loaders
import numpy as np
from sklearn.datasets import fetch_20newsgroups, get_data_home

AWS_SERVICES = 20
NEWSGROUPS_ARCHIVE_MB = 14.5

log = logging.getLogger("text_clustering")


class Corpus(NamedTuple):
    """Documents with their titles and, where the corpus has them, their labels; all of the same length."""

    name: str
    documents: list[str]
    titles: list[str]
    labels: list[str] | None

    def select(self, chosen: np.ndarray) -> "Corpus":
        """The documents at the chosen positions, or where a mask of shape (documents,) is true."""
        places = np.arange(len(self.documents))[chosen].tolist()
        columns = (None if column is None else [column[place] for place in places] for column in self[1:])
        return Corpus(self.name, *columns)


class CorpusError(Exception):
    """The corpus cannot be had, or cannot be clustered as asked; the message says why and what to do."""


def load_corpus(dataset: str, data_home: str | None = None) -> Corpus:
    """Load the corpus that --dataset names.

    Raises:
        CorpusError: it cannot be had, or holds no document.
    """
    path = Path(dataset)
    if dataset == "20newsgroups":
        corpus = load_newsgroups(data_home)
    elif dataset == "aws-docs":
        corpus = load_aws_docs()
    elif path.is_dir():
        corpus = load_folder(path)
    elif path.is_file() and dataset.endswith((".csv", ".jsonl", ".jsonl.gz")):
        corpus = load_table(path)
    elif path.exists():
        raise CorpusError(f"{dataset} is not a folder and its name does not end in .csv, .jsonl or .jsonl.gz.")
    else:
        raise CorpusError(f"There is no dataset and no file named {dataset}.")
    if not any(document.strip() for document in corpus.documents):
        raise CorpusError(f"{dataset} has no document with text in it.")
    return corpus


def load_newsgroups(data_home: str | None) -> Corpus:
    """All 18,846 posts of 20 Newsgroups. The title is the subject, the label is the group."""
    archive = Path(get_data_home(data_home)) / "20news_home" / "20news-bydate.tar.gz"
    socket.setdefaulttimeout(60)  # scikit-learn's download has no limit of its own
    try:
        with download_progress(archive):
            posts = fetch_20newsgroups(subset="all", data_home=data_home)
    except OSError as error:
        raise CorpusError(f"20 Newsgroups could not be downloaded or stored ({error}).") from error
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


def load_folder(folder: Path) -> Corpus:
    """A folder of text files: one subfolder per label (the layout of sklearn.datasets.load_files), or flat."""
    files = sorted(path for path in folder.glob("*/*") if path.is_file() and not path.name.startswith("."))
    labels = [path.parent.name for path in files]
    if not files:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        labels = None
    if not files:
        raise CorpusError(f"{folder} has no text files, neither in itself nor in its subfolders.")
    documents = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    return Corpus(str(folder), documents, [path.name for path in files], labels)


def load_table(path: Path) -> Corpus:
    """A .csv file with a header line, or a .jsonl(.gz) file of objects; 'text', optionally 'label' and 'title'."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="") as lines:
            if path.suffix == ".csv":
                csv.field_size_limit(sys.maxsize)
                rows = list(csv.DictReader(lines))
            else:
                rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise CorpusError(f"{path} could not be read: {error}.") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            found = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)
            raise CorpusError(f"Row {number} of {path} has no column 'text' with a string in it; it has: {found}.")
    documents = [valid_unicode(row["text"]) for row in rows]
    titles = [valid_unicode(str(row.get("title") or first_line(row["text"]))) for row in rows]
    labels = [str(row["label"]) for row in rows] if all(row.get("label") is not None for row in rows) else None
    return Corpus(str(path), documents, titles, labels)


def valid_unicode(text: str) -> str:
    return text.encode(errors="replace").decode()  # JSON can hold half a surrogate pair, UTF-8 cannot


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:80]
