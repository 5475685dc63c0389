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
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from command_line import HelpFormatter, add_log_level_option, exit_on_interrupt, positive_int

if __name__ == "__main__":
    exit_on_interrupt()

import coloredlogs
import numpy as np
from scipy.sparse import csr_matrix
from sklearn import config_context, metrics
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from threadpoolctl import threadpool_limits

from assignment.assignment_file import add_assignments_option, assignment_file
from assignment.parallel import add_engine_options, assign_all
from corpus.documents import Batch
from corpus.source import Corpus, CorpusError, add_dataset_options, draw_sample, source_of
from failure import report_errors
from model import artefacts
from model.artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE
from model.assigner import Assigned, Assigner, TermSums
from model.projection import Lsa, composed
from training.baseline import measure_baseline
from training.cluster_count import AUTO, DOCUMENTS_PER_CLUSTER, choose_clusters, cluster_numbers
from training.cluster_statistics import ClusterStatistics
from training.clustering import fit_clusters
from training.lineage import as_start, continue_numbers, first_of_its_line, log_changes, read_earlier, renumber
from training.vocabulary import fit_vectorizer, without_phrases

REPORT_FILE = "report.html"

CLUSTERS = 20
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    add_dataset_options(parser, default=["20newsgroups"])
    parser.add_argument(
        "--sample",
        type=positive_int,
        default=100_000,
        metavar="N",
        help="documents that the model is fitted on, drawn at random from a larger corpus",
    )
    parser.add_argument(
        "--clusters",
        type=cluster_numbers,
        metavar="K",
        help=f"number of clusters, a range to choose from such as 10-40, or auto ({AUTO[0]}-{AUTO[1]}); without it "
        f"{CLUSTERS}, or as many as the model of --like has",
    )
    parser.add_argument("--lsa", type=positive_int, default=300, metavar="N", help="dimensions of the LSA space")
    parser.add_argument("--no-minibatch", action="store_true", help="ordinary k-means instead of mini-batch k-means")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random choice")
    parser.add_argument(
        "--like",
        metavar="DIR",
        help="an earlier model, whose clusters are continued and keep their numbers and names: the folder of its three "
        "files, or s3://BUCKET/NAME/VERSION/ as deploy_service.py uploads them",
    )
    add_engine_options(parser)
    add_assignments_option(parser)
    parser.add_argument("--output-dir", type=Path, default=Path("."), metavar="DIR", help="where the files go")
    parser.add_argument(
        "--report", action="store_true", help=f"also write {REPORT_FILE}, which shows what each cluster is about"
    )
    parser.add_argument("--verbose", action="store_true", help="print the progress inside k-means")
    add_log_level_option(parser)
    return parser.parse_args()


# -------------------------------------------------------------------------------------------------------- report


def measure(svd: TruncatedSVD, model: KMeans, vectors: np.ndarray, tally: ClusterStatistics, seed: int) -> dict:
    """Score the clusters. Variance and silhouette need no labels; the others compare the documents that have one."""
    scores = {"explained_variance": float(svd.explained_variance_ratio_.sum()), **tally.agreement()}
    # Without the limit all distances of the sample are in memory at a time: 200 MB, the peak of a whole training.
    with contextlib.suppress(ValueError), config_context(working_memory=32):  # one cluster, or one document in each
        sample = min(SILHOUETTE_SAMPLE, len(vectors))
        scores["silhouette"] = float(
            metrics.silhouette_score(vectors, model.labels_, sample_size=sample, random_state=seed)
        )
    return scores


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


def assign_sample(
    assigner: Assigner, corpus: Corpus, weights: csr_matrix, known: np.ndarray, vectors: np.ndarray
) -> tuple[Batch, tuple[Assigned, TermSums]]:
    """Assign the documents that the model was fitted on by the vectors that were made of them then."""
    all_vectors = np.zeros((len(known), vectors.shape[1]))
    all_vectors[known] = vectors
    assigned = assigner.nearest(all_vectors)
    return corpus.as_batch(), (assigned, assigner.sum_terms(weights, assigned.clusters))


def train(arguments: argparse.Namespace, write_assignments: Callable[[Batch, Assigned, dict[int, str]], None]):
    """Read a sample, fit, assign all documents, report, save."""
    if arguments.report:
        from report.page import (
            make_report,
        )  # here, for a run without report needs no Bokeh, and first, in case it is missing

    earlier = read_earlier(arguments.like, arguments.s3_endpoint) if arguments.like else None
    lowest, highest = arguments.clusters or [len(earlier.summary["clusters"]) if earlier else CLUSTERS] * 2
    source = source_of(arguments)
    with timed(f"Reading {source.name}"):
        corpus, documents = draw_sample(source, arguments.sample, arguments.seed)
    whole = documents == len(corpus.documents)
    log.info("%d documents%s", documents, "" if whole else f", {len(corpus.documents)} drawn to fit the model on")
    require_different_documents(corpus, lowest)

    with timed("Fitting TF-IDF"):
        vectorizer, weights = fit_vectorizer(corpus.documents)
    log.info("%d terms", weights.shape[1])
    known = np.asarray(weights.sum(axis=1)).ravel() > 0
    to_fit = int(known.sum())
    if to_fit < lowest:
        raise CorpusError(
            f"{corpus.name} has {to_fit} documents with a term that others have too, fewer than the "
            f"{lowest} clusters asked for: choose a smaller --clusters."
        )
    dimensions = min(arguments.lsa, to_fit - 1, weights.shape[1] - 1)
    if dimensions < arguments.lsa:
        log.warning(
            "%d documents with %d terms have no %d dimensions: using %d",
            *(to_fit, weights.shape[1], arguments.lsa, dimensions),
        )
    clusters, agreement = lowest, {}
    if lowest < highest:
        with threadpool_limits(1), timed("Choosing the number of clusters"):
            # A half of the sample has too few of each phrase to find a cluster by them again.
            single_words = without_phrases(vectorizer, weights[known])
            clusters, agreement = choose_clusters(single_words, lowest, highest, dimensions, arguments.seed)
    start = None
    if earlier:
        with timed(f"Assigning by the earlier model {earlier.version}"):
            before, similarities = earlier.assign(corpus.select(known).documents)
        start = as_start(earlier, before, similarities, clusters)
    # One thread: more would save a few seconds on an idle machine and cost minutes on a busy one, where they wait for
    # each other; and the order of their sums would make the clusters depend on the number of cores.
    with threadpool_limits(1), timed(f"Fitting LSA and k-means with {clusters} clusters"):
        svd, model, vectors, view = fit_clusters(
            weights[known],
            clusters,
            dimensions,
            not arguments.no_minibatch,
            arguments.seed,
            arguments.verbose,
            start,
        )
        similarity, baselines = measure_baseline(view, model.labels_, clusters)
    filled = len(np.unique(model.labels_))
    if filled < clusters:
        log.warning(
            "Only %d of %d clusters have documents, which differ in too few words for more: choose --clusters %d",
            *(filled, clusters, filled),
        )
    pipeline = make_pipeline(vectorizer, svd, Normalizer())
    continuation = first_of_its_line(clusters)
    if earlier:
        continuation = continue_numbers(earlier, before, model.labels_, clusters)
        model = renumber(model, continuation.numbers)

    assigner = Assigner(Lsa(pipeline), model.cluster_centers_, continuation.numbers)
    if whole:
        assigned = [assign_sample(assigner, corpus, weights, known, vectors)]
    else:
        assigned = assign_all(assigner, source.batches(), "assign_and_sum", documents, arguments.jobs, arguments.dask)
    tally = ClusterStatistics(len(model.cluster_centers_), weights.shape[1])
    names = continuation.names()
    with timed("Assigning all documents"):
        for batch, (where, sums) in assigned:
            tally.add(batch, where, sums)
            write_assignments(batch, where, names)
    if tally.documents != documents:
        raise CorpusError(
            f"{source.name} had {documents} documents and then {tally.documents}: it was changed meanwhile."
        )
    if tally.unknown:
        log.warning(
            "%d of %d documents have no term that is known: they are in no cluster (-1)", tally.unknown, documents
        )

    if tally.labels and tally.with_label < documents:
        log.info("%d of %d documents have a label: the scores by labels are over these", tally.with_label, documents)
    with timed("Scoring and describing the clusters"):
        scores = measure(svd, model, vectors, tally, arguments.seed)
        terms = composed(vectorizer.get_feature_names_out())
        described = [
            {"cluster": number, **inherited, **tally.describe(number, terms), **baseline}
            | {"centroid": model.cluster_centers_[number].tolist()}
            for number, inherited, baseline in zip(continuation.numbers, continuation.inherited, baselines)
        ]
        described.sort(key=lambda cluster: cluster["cluster"])
    log_report(scores, described)

    summary = artefacts.summarise(
        dataset={
            "name": corpus.name,
            "documents": documents,
            "labels": tally.labels,
            "unknown": tally.unknown,
            "left_out": dict(+source.findings.left_out),
        },
        settings={
            "clusters": clusters,
            "lsa": dimensions,
            "sample": len(corpus.documents),
            "minibatch": not arguments.no_minibatch,
            "seed": arguments.seed,
        },
        metrics=scores,
        clusters=described,
        baseline={"unknown": tally.unknown / documents, "similarity": similarity},
        lineage=continuation.lineage,
        agreement_of_halves={str(number): value for number, value in agreement.items()},
    )
    if earlier:
        log_changes(summary)
    texts = {}
    if arguments.report:
        with timed("Making the report"):
            texts[REPORT_FILE] = make_report(
                summary, tally, corpus.select(known).titles, model, vectors, SILHOUETTE_SAMPLE
            )
    elif (arguments.output_dir / REPORT_FILE).exists():
        log.warning("%s shows an earlier model; --report renews it", arguments.output_dir / REPORT_FILE)
    # The vectorizer notes an address in memory, by which the files of the same model would differ from run to run.
    vars(vectorizer).pop("_stop_words_id", None)
    artefacts.save(arguments.output_dir, model, pipeline, summary, texts)
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
    with report_errors(log), assignment_file(arguments.assignments) as write_assignments:
        train(arguments, write_assignments)


if __name__ == "__main__":
    main()
