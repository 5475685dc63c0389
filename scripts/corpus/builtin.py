"""The built-in corpora: 20 Newsgroups, and the documentation of AWS operations that botocore ships."""

import contextlib
import html
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import botocore.loaders
from sklearn.datasets import fetch_20newsgroups, get_data_home

from corpus.documents import CorpusError, Document

AWS_SERVICES = 20
NEWSGROUPS_ARCHIVE_MB = 14.5

log = logging.getLogger("text_clustering")


def read_newsgroups(data_home: str | None = None) -> Iterator[Document]:
    """All 18,846 posts of 20 Newsgroups. The title is the subject, the label is the group.

    Args:
        data_home: scikit-learn's data folder; None: its default.

    Raises:
        CorpusError: the posts can be neither downloaded nor stored.
    """
    archive = Path(get_data_home(data_home)) / "20news_home" / "20news-bydate.tar.gz"
    socket.setdefaulttimeout(60)  # scikit-learn's download has no timeout of its own
    try:
        with download_progress(archive):
            posts = fetch_20newsgroups(subset="all", data_home=data_home)
    except OSError as error:
        raise CorpusError(
            f"20 Newsgroups could not be downloaded or stored ({error}). --dataset aws-docs needs no network."
        ) from error
    for number, (post, target) in enumerate(zip(posts.data, posts.target), start=1):
        title, text = parse_post(post)
        yield Document(str(number), text, title, posts.target_names[target])


def parse_post(post: str) -> tuple[str, str]:
    """The subject of a post, and the document: subject and body.

    The other header lines (From, Organization, NNTP-Posting-Host ...) are dropped: texts that users send later have
    none, and clusters of mail hosts are useless.
    """
    header, _, body = post.partition("\n\n")
    subject = re.search(r"^Subject:[ \t]*(?:Re:[ \t]*)*(.*)$", header, re.MULTILINE | re.IGNORECASE)
    title = subject[1].strip() if subject else ""
    return title, f"{title}\n" * 3 + body  # the subject says more of the topic than any other line


@contextlib.contextmanager
def download_progress(archive: Path) -> Iterator[None]:
    """Log the progress of scikit-learn's download of an archive every two seconds."""
    finished = threading.Event()

    def report() -> None:
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


def read_aws_docs() -> Iterator[Document]:
    """The documentation of the AWS services with the most operations, for machines without network.

    The title is the operation, the label is the service.
    """
    loader = botocore.loaders.Loader()
    log.info("Reading the service models of botocore")
    operations = {
        service: loader.load_service_model(service, "service-2")["operations"]
        for service in loader.list_available_services("service-2")
    }
    largest = sorted(operations, key=lambda service: (-len(operations[service]), service))[:AWS_SERVICES]
    rows = (
        (strip_html(operation.get("documentation", "")), name, service)
        for service in largest
        for name, operation in sorted(operations[service].items())
    )
    for number, row in enumerate((row for row in rows if row[0]), start=1):
        yield Document(str(number), *row)


def strip_html(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", text)).strip()
