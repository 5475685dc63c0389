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
import logging
import pprint
import sys
import time
import warnings
from pathlib import Path

import coloredlogs
import numpy as np
from scipy.sparse import csr_matrix
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits

import artefacts
from artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE
from baseline import measure_similarities
from clustering import fit_clusters
from corpus import Corpus, CorpusError, add_dataset_options, draw_sample, source_of
from projection import composed
from vocabulary import fit_vectorizer

REPORT_FILE = "report.html"

TOP_TERMS = 10
CENTRAL_DOCUMENTS = 5
DOCUMENTS_PER_CLUSTER = 5  # fewer are no cluster that anybody would tell from chance
SILHOUETTE_SAMPLE = 5_000  # all pairs of a larger corpus take minutes and change the third digit
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_dataset_options(parser, default=["20newsgroups"])
    parser.add_argument("--clusters", type=positive, default=20, metavar="K", help="number of clusters")
    parser.add_argument("--lsa", type=positive, default=300, metavar="N", help="dimensions of the LSA space")
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


# -------------------------------------------------------------------------------------------------------- report


def measure(svd: TruncatedSVD, model: KMeans, vectors: np.ndarray, labels: list[str] | None, seed: int) -> dict:
    """Score the clusters. The silhouette needs no labels; the others compare the documents that have one with it."""
    scores = {"explained_variance": float(svd.explained_variance_ratio_.sum())}
    if labels:
        labelled = np.array([label is not None for label in labels])
        if not labelled.all():
            log.info("%d of %d documents have a label: the scores by labels are over these", sum(labelled), len(labels))
        labels, assigned = np.array(labels, dtype=object)[labelled].tolist(), model.labels_[labelled]
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
    terms = composed(vectorizer.get_feature_names_out())
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


# ----------------------------------------------------------------------------------------------------------- main


@contextlib.contextmanager
def timed(what: str):
    log.info("%s ...", what)
    start = time.perf_counter()
    yield
    log.info("%s: done in %.1f s", what, time.perf_counter() - start)


def require_different_documents(corpus: Corpus, clusters: int):
    """Check that there are enough different texts for the clusters.

    Raises:
        CorpusError: there are not.
    """
    documents, different = len(corpus.documents), len(set(corpus.documents))
    if different == 1 < documents:
        raise CorpusError(f"All {documents} documents of {corpus.name} are the same text: there is nothing to cluster.")
    if different < clusters:
        of_these = f", {different} of them different" if different < documents else ""
        raise CorpusError(
            f"{corpus.name} has {documents} documents{of_these}, fewer than the {clusters} clusters asked for: "
            f"choose --clusters {max(different // DOCUMENTS_PER_CLUSTER, 1)} or so."
        )
    if different < clusters * DOCUMENTS_PER_CLUSTER:
        log.warning(
            "%d different documents are few for %d clusters: --clusters %d would leave %d in each",
            *(different, clusters, max(different // DOCUMENTS_PER_CLUSTER, 1), DOCUMENTS_PER_CLUSTER),
        )


def train(arguments: argparse.Namespace):
    """Load, fit, report, save."""
    if arguments.report:
        from report import (
            make_report,
        )  # here, for a run without report needs no Bokeh, and first, in case it is missing

    source = source_of(arguments)
    with timed(f"Loading {source.name}"):
        corpus, read = draw_sample(source, sys.maxsize, arguments.seed)
    labels = len(set(corpus.labels) - {None}) if corpus.labels else 0
    log.info("%d documents, %d labels", read, labels)
    require_different_documents(corpus, arguments.clusters)

    with timed("Fitting TF-IDF"):
        vectorizer, weights = fit_vectorizer(corpus.documents)
    log.info("%d terms", weights.shape[1])
    known = np.asarray(weights.sum(axis=1)).ravel() > 0
    corpus, weights = corpus.select(known), weights[known]
    if not known.all():
        log.warning("%d of %d documents have no term that is known: they are in no cluster (-1)", sum(~known), read)
    if len(corpus.documents) < arguments.clusters:
        raise CorpusError(
            f"{corpus.name} has {len(corpus.documents)} documents with a term that others have too, fewer than the "
            f"{arguments.clusters} clusters asked for: choose a smaller --clusters."
        )
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
        similarity, similarity_of_clusters = measure_similarities(weights, model.labels_, arguments.clusters)
    filled = len(np.unique(model.labels_))
    if filled < arguments.clusters:
        log.warning(
            "Only %d of %d clusters have documents, which differ in too few words for more: choose --clusters %d",
            *(filled, arguments.clusters, filled),
        )
    with timed("Scoring and describing the clusters"):
        scores = measure(svd, model, vectors, corpus.labels, arguments.seed)
        clusters = describe_clusters(vectorizer, weights, model, vectors, corpus.titles)
        clusters = [cluster | {"similarity": q} for cluster, q in zip(clusters, similarity_of_clusters)]
    log_report(scores, clusters)

    summary = artefacts.summarise(
        dataset={
            "name": corpus.name,
            "documents": read,
            "labels": labels,
            "unknown": int(sum(~known)),
            "left_out": dict(+source.findings.left_out),
        },
        settings={
            "clusters": arguments.clusters,
            "lsa": dimensions,
            "minibatch": not arguments.no_minibatch,
            "seed": arguments.seed,
        },
        metrics=scores,
        clusters=clusters,
        baseline={"unknown": float(1 - known.mean()), "similarity": similarity},
    )
    texts = {}
    if arguments.report:
        with timed("Making the report"):
            texts[REPORT_FILE] = make_report(summary, corpus, model, vectors, SILHOUETTE_SAMPLE)
    elif (arguments.output_dir / REPORT_FILE).exists():
        log.warning("%s shows an earlier model; --report renews it", arguments.output_dir / REPORT_FILE)
    artefacts.save(arguments.output_dir, model, make_pipeline(vectorizer, svd, Normalizer()), summary, texts)
    log.info(
        "Wrote %s to %s",
        ", ".join([MODEL_FILE, TRANSFORMER_FILE, CLUSTERS_FILE, *texts]),
        arguments.output_dir.resolve(),
    )


def main():
    arguments = parse_arguments()
    coloredlogs.install(level=arguments.log_level)
    logging.captureWarnings(True)  # as a line of the log, without a line of a library's source
    warnings.formatwarning = lambda message, *_: str(message)
    warnings.filterwarnings("ignore", "Number of distinct clusters")  # of each attempt; train says it of the model
    try:
        train(arguments)
    except CorpusError as error:
        log.error(
            "%s (--dataset takes 20newsgroups, aws-docs, a file, a folder or s3://bucket/prefix; see --help)", error
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
