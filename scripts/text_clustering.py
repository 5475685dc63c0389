#!/usr/bin/env python
"""Train a text clustering model: TF-IDF -> LSA -> k-means.

    python ./scripts/text_clustering.py --lsa 100 --output-dir .

writes three files into the output directory:

- model.joblib        a scikit-learn KMeans or MiniBatchKMeans
- transformer.joblib  the scikit-learn pipeline that made its training vectors
- clusters.json       what each cluster is about, and how the two files were made

and with --report a fourth, report.html, which shows a person what each cluster is about.

Both joblib files hold stock scikit-learn objects, so that KServe's own scikit-learn server can load them.
After scikit-learn's example "Clustering text documents using k-means":
https://scikit-learn.org/stable/auto_examples/text/plot_document_clustering.html
"""

import argparse
import contextlib
import csv
import gzip
import hashlib
import html
import json
import logging
import os
import platform
import pprint
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import botocore.loaders
import coloredlogs
import joblib
import numpy as np
import scipy
import sklearn
from scipy.sparse import csr_matrix, diags
from sklearn import metrics
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.datasets import fetch_20newsgroups, get_data_home
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, normalize
from threadpoolctl import threadpool_limits

MODEL_FILE = "model.joblib"
TRANSFORMER_FILE = "transformer.joblib"
CLUSTERS_FILE = "clusters.json"
REPORT_FILE = "report.html"

ATTEMPTS = 12
REFINEMENTS = 3
TOP_TERMS = 10
CENTRAL_DOCUMENTS = 5
SILHOUETTE_SAMPLE = 5_000  # all pairs of a larger corpus take minutes and change the third digit
AWS_SERVICES = 20
NEWSGROUPS_ARCHIVE_MB = 14.5
SCORE_NAMES = {
    "explained_variance": "Explained variance",
    "homogeneity": "Homogeneity",
    "completeness": "Completeness",
    "v_measure": "V-measure",
    "adjusted_rand_index": "Adjusted Rand index",
    "adjusted_mutual_information": "Adjusted mutual information",
    "silhouette": "Silhouette",
}

log = logging.getLogger("text_clustering")


class Corpus(NamedTuple):
    """Documents with their titles and, where the corpus has them, their labels; all of the same length."""

    name: str
    documents: list[str]
    titles: list[str]
    labels: list[str] | None


class CorpusError(Exception):
    """The corpus cannot be had, or cannot be clustered as asked; the message says why and what to do."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--dataset",
        default="20newsgroups",
        help="20newsgroups (downloaded once), aws-docs (needs no network), a folder (one subfolder per label, or "
        "flat text files), or a .csv, .jsonl or .jsonl.gz file with a 'text' column and, optionally, 'label'",
    )
    parser.add_argument("--data-home", help="where scikit-learn keeps 20 Newsgroups (default: its own cache)")
    parser.add_argument("--clusters", type=positive, default=20, metavar="K", help="number of clusters")
    parser.add_argument("--lsa", type=positive, default=100, metavar="N", help="dimensions of the LSA space")
    parser.add_argument("--no-minibatch", action="store_true", help="ordinary k-means instead of mini-batch k-means")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random choice")
    parser.add_argument("--output-dir", type=Path, default=Path("."), metavar="DIR", help="where the files go")
    parser.add_argument(
        "--report", action="store_true", help=f"also write {REPORT_FILE}, which shows what each cluster is about"
    )
    parser.add_argument("--verbose", action="store_true", help="print the progress inside k-means")
    parser.add_argument(
        "--log-level", default="INFO", type=str.upper, choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="log level"
    )
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


# ---------------------------------------------------------------------------------------------------------- load


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


# ----------------------------------------------------------------------------------------------------------- fit


def fit_vectorizer(documents: list[str]) -> tuple[TfidfVectorizer, csr_matrix]:
    """Fit TF-IDF.

    Returns:
        The fitted vectorizer, and what it makes of the documents: unit rows of shape (documents, terms).

    Raises:
        CorpusError: the documents have no terms in common.
    """
    vectorizer = TfidfVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]\w{2,}\b",  # from a letter on: numbers and initials name no topic
        sublinear_tf=True,
        min_df=5 if len(documents) >= 1_000 else 2,
        max_df=0.5,
        max_features=30_000,
    )
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError as error:
        raise CorpusError(f"The documents have no terms in common to cluster them by ({error}).") from error
    # scikit-learn's idf is ln((1 + n) / (1 + df)) + 1. The square of that logarithm leaves the words of every post
    # next to nothing, which no list of stop words does as well (V-measure on 20 Newsgroups: 0.65 without, 0.70 with).
    idf = (vectorizer.idf_ - 1) ** 2
    weights = normalize(weights @ diags(idf / vectorizer.idf_))
    vectorizer.idf_ = idf
    return vectorizer, weights


def fit_clusters(
    weights: csr_matrix, clusters: int, lsa: int, minibatch: bool, seed: int, verbose: bool
) -> tuple[TruncatedSVD, KMeans, np.ndarray]:
    """Fit LSA and k-means, and turn the LSA space so that it shows the clusters best.

    k-means finds clusters by the directions in which the documents differ most, of which many have nothing to do
    with topics. So a ridge regression learns the directions that tell the clusters found so far apart, k-means runs
    again along those, and so on: adaptive dimension reduction, Ding and Li, "Adaptive dimension reduction using
    discriminant analysis and k-means clustering", ICML 2007. No label takes part. The directions are a linear map of
    the LSA space, so they are stored as the components of the SVD: one for each cluster.

    Args:
        weights: TF-IDF, shape (documents, terms).

    Returns:
        The SVD with its turned components, shape (clusters, terms); the k-means model; and the vectors that it was
        trained on, unit rows of shape (documents, clusters).
    """
    svd = TruncatedSVD(lsa, random_state=seed)
    lsa_vectors = normalize(svd.fit_transform(weights))

    # Where k-means ends depends on where it starts, so the best of some attempts is taken. Their inertias are of
    # different spaces; the tightness of the clusters in the LSA space that they share also goes best with the labels.
    attempts = []
    for number in range(ATTEMPTS):
        labels = attempt(lsa_vectors, clusters, seed * ATTEMPTS + number, verbose)
        attempts.append((tightness(lsa_vectors, labels, clusters), labels))
        log.info("k-means, attempt %d of %d: tightness %.4f", number + 1, ATTEMPTS, attempts[-1][0])
    labels = max(attempts, key=lambda pair: pair[0])[1]

    svd.components_ = discriminative_directions(lsa_vectors, labels, clusters).T @ svd.components_
    vectors = normalize(svd.transform(weights))
    start = means(vectors, labels, clusters)
    if minibatch:
        # The start is good already: nothing is gained by moving a small cluster to a random document.
        model = MiniBatchKMeans(
            clusters, init=start, n_init=1, batch_size=2_048, reassignment_ratio=0, random_state=seed, verbose=verbose
        )
    else:
        model = KMeans(clusters, init=start, n_init=1, random_state=seed, verbose=verbose)
    return svd, model.fit(vectors), vectors


def attempt(lsa_vectors: np.ndarray, clusters: int, seed: int, verbose: bool) -> np.ndarray:
    """One run of k-means and the adaptive dimension reduction; returns the cluster of each document."""
    # The leading dimensions alone make a better start: the others are mostly noise to k-means.
    leading = normalize(lsa_vectors[:, : clusters * 3 // 2])
    labels = KMeans(clusters, n_init=3, random_state=seed, verbose=verbose).fit(leading).labels_
    for _ in range(REFINEMENTS):
        vectors = normalize(lsa_vectors @ discriminative_directions(lsa_vectors, labels, clusters))
        labels = KMeans(clusters, init=means(vectors, labels, clusters), n_init=1, verbose=verbose).fit(vectors).labels_
    return labels


def tightness(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> float:
    """Mean cosine of unit vectors to the centroid of their cluster: what spherical k-means maximises."""
    centroids = normalize(means(vectors, labels, clusters))
    return float(np.einsum("ij,ij->i", vectors, centroids[labels]).mean())


def discriminative_directions(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """Ridge regression of cluster membership on the vectors; the penalty is the mean eigenvalue of their scatter.

    Returns:
        Directions of shape (dimensions, clusters).
    """
    scatter = vectors.T @ vectors
    scatter += np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    membership = np.eye(clusters)[labels]
    return np.linalg.solve(scatter, vectors.T @ (membership / np.sqrt(membership.sum(axis=0).clip(1))))


def means(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    membership = np.eye(clusters)[labels]
    return membership.T @ vectors / membership.sum(axis=0).clip(1)[:, np.newaxis]


# -------------------------------------------------------------------------------------------------------- report


def measure(svd: TruncatedSVD, model: KMeans, vectors: np.ndarray, labels: list[str] | None, seed: int) -> dict:
    """Score the clusters. The silhouette needs no labels; the other scores compare the clusters with the labels."""
    scores = {"explained_variance": float(svd.explained_variance_ratio_.sum())}
    if labels:
        assigned = model.labels_
        scores["homogeneity"], scores["completeness"], scores["v_measure"] = map(
            float, metrics.homogeneity_completeness_v_measure(labels, assigned)
        )
        scores["adjusted_rand_index"] = float(metrics.adjusted_rand_score(labels, assigned))
        scores["adjusted_mutual_information"] = float(metrics.adjusted_mutual_info_score(labels, assigned))
    with contextlib.suppress(ValueError):  # one cluster, or one document in each
        sample = min(SILHOUETTE_SAMPLE, len(vectors))
        scores["silhouette"] = float(
            metrics.silhouette_score(vectors, model.labels_, sample_size=sample, random_state=seed)
        )
    return scores


def describe_clusters(
    vectorizer: TfidfVectorizer, weights: csr_matrix, model: KMeans, vectors: np.ndarray, titles: list[str]
) -> list[dict]:
    """Tell what each cluster is about: its top terms and its central documents.

    The weight of a term is its mean TF-IDF in the cluster times the square root of the share of the documents that
    have it: without that, the words of one long thread would come before those of the topic.
    """
    terms = vectorizer.get_feature_names_out()
    titles = np.array(titles, dtype=object)
    clusters = []
    for number, centroid in enumerate(model.cluster_centers_):
        members = np.flatnonzero(model.labels_ == number)
        rows, count = weights[members], max(len(members), 1)
        share = np.bincount(rows.indices, minlength=len(terms)) / count
        term_weights = np.asarray(rows.sum(axis=0)).ravel() / count * np.sqrt(share)
        top = np.argsort(-term_weights)[:TOP_TERMS]
        nearest = members[np.argsort(np.linalg.norm(vectors[members] - centroid, axis=1))]
        clusters.append(
            {
                "cluster": number,
                "size": len(members),
                "terms": [[terms[i], round(float(term_weights[i]), 4)] for i in top if term_weights[i]],
                "titles": list(dict.fromkeys(titles[nearest]))[:CENTRAL_DOCUMENTS],
                "centroid": centroid.tolist(),
            }
        )
    return clusters


def log_report(scores: dict, clusters: list[dict]):
    for name, score in scores.items():
        log.info("%s: %.3f", SCORE_NAMES[name], score)
    top_terms = {f"Cluster {c['cluster']:02d}": " ".join(term for term, _ in c["terms"]) for c in clusters}
    log.info("Top terms per cluster:\n%s", pprint.pformat(top_terms))


def library_versions() -> dict:
    return {
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "joblib": joblib.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


# ---------------------------------------------------------------------------------------------------------- save


def save_artefacts(output_dir: Path, model: KMeans, pipeline: Pipeline, summary: dict, report: str | None = None):
    """Write model, transformer, summary and report, if any: all, or none of them and the previous ones stay.

    Everything that can fail for want of space or time happens on files beside the final ones. What remains is a few
    renames, during which Ctrl-C and SIGTERM wait; should the machine itself stop between them, the sha256 sums in
    clusters.json tell that the set is broken, and transformer.py refuses it.

    Raises:
        OSError: the directory cannot be written.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".text_clustering-") as folder:
        folder = Path(folder)
        joblib.dump(model, folder / MODEL_FILE)
        joblib.dump(pipeline, folder / TRANSFORMER_FILE)
        summary = summary | {"sha256": {name: sha256(folder / name) for name in (MODEL_FILE, TRANSFORMER_FILE)}}
        (folder / CLUSTERS_FILE).write_text(json.dumps(summary, indent=2, ensure_ascii=False), encoding="utf-8")
        if report:
            (folder / REPORT_FILE).write_text(report, encoding="utf-8", errors="replace")
        elif (output_dir / REPORT_FILE).exists():
            log.warning("%s shows an earlier model; --report renews it", output_dir / REPORT_FILE)
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        with signals_held():
            replace_all(folder, output_dir)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def signals_held():
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def replace_all(source: Path, target: Path):
    """Move every file of one folder over its namesake in another; when one cannot be, put the old ones back."""
    names = [path.name for path in source.iterdir()]
    previous = source / "previous"
    previous.mkdir()
    try:
        for name in names:
            if (target / name).exists():
                os.replace(target / name, previous / name)
            os.replace(source / name, target / name)
    except OSError:
        for name in names:
            if (previous / name).exists():
                os.replace(previous / name, target / name)
        raise


# ----------------------------------------------------------------------------------------------------------- main


@contextlib.contextmanager
def timed(what: str):
    log.info("%s ...", what)
    start = time.perf_counter()
    yield
    log.info("%s: done in %.1f s", what, time.perf_counter() - start)


def train(arguments: argparse.Namespace):
    """Load, fit, report, save."""
    if arguments.report:
        from report import (
            make_report,
        )  # here, for a run without report needs no Bokeh, and first, in case it is missing

    with timed(f"Loading {arguments.dataset}"):
        corpus = load_corpus(arguments.dataset, arguments.data_home)
    if len(corpus.documents) < arguments.clusters:
        raise CorpusError(
            f"{corpus.name} has {len(corpus.documents)} documents, fewer than the {arguments.clusters} clusters asked "
            "for: choose a smaller --clusters."
        )
    labels = len(set(corpus.labels)) if corpus.labels else 0
    log.info("%d documents, %d labels", len(corpus.documents), labels)

    with timed("Fitting TF-IDF"):
        vectorizer, weights = fit_vectorizer(corpus.documents)
    log.info("%d terms", weights.shape[1])
    dimensions = min(arguments.lsa, min(weights.shape) - 1)
    if dimensions < arguments.lsa:
        log.warning(
            "%d documents with %d terms have no %d dimensions: using %d", *weights.shape, arguments.lsa, dimensions
        )
    # One thread: more would save a few seconds on an idle machine and cost minutes on a busy one, where they wait for
    # each other; and the order of their sums would make the clusters depend on the number of cores.
    with threadpool_limits(1), timed(f"Fitting LSA and k-means with {arguments.clusters} clusters"):
        svd, model, vectors = fit_clusters(
            weights, arguments.clusters, dimensions, not arguments.no_minibatch, arguments.seed, arguments.verbose
        )
    with timed("Scoring and describing the clusters"):
        scores = measure(svd, model, vectors, corpus.labels, arguments.seed)
        clusters = describe_clusters(vectorizer, weights, model, vectors, corpus.titles)
    log_report(scores, clusters)

    summary = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": {"name": corpus.name, "documents": len(corpus.documents), "labels": labels},
        "settings": {
            "clusters": arguments.clusters,
            "lsa": dimensions,
            "minibatch": not arguments.no_minibatch,
            "seed": arguments.seed,
        },
        "metrics": scores,
        "versions": library_versions(),
        "clusters": clusters,
    }
    report = None
    if arguments.report:
        with timed("Making the report"):
            report = make_report(summary, corpus, model, vectors, SILHOUETTE_SAMPLE)
    save_artefacts(arguments.output_dir, model, make_pipeline(vectorizer, svd, Normalizer()), summary, report)
    written = [MODEL_FILE, TRANSFORMER_FILE, CLUSTERS_FILE] + [REPORT_FILE] * arguments.report
    log.info("Wrote %s to %s", ", ".join(written), arguments.output_dir.resolve())


def main():
    arguments = parse_arguments()
    coloredlogs.install(level=arguments.log_level)
    logging.captureWarnings(True)  # as a line of the log, without a line of a library's source
    warnings.formatwarning = lambda message, *_: str(message)
    try:
        train(arguments)
    except CorpusError as error:
        log.error(
            "%s Other datasets: --dataset 20newsgroups, aws-docs (no network needed), a folder, or a .csv or .jsonl file.",
            error,
        )
        sys.exit(2)
    except OSError as error:
        log.error("Nothing was written: %s", error)
        sys.exit(1)
    except KeyboardInterrupt:
        log.error("Interrupted: nothing was written")
        sys.exit(130)


if __name__ == "__main__":
    main()
