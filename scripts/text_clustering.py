#!/usr/bin/env python
"""Train a text clustering model: TF-IDF -> LSA -> k-means.

    python ./scripts/text_clustering.py --lsa 100 --output-dir .

writes three files into the output directory:

- model.joblib        a scikit-learn KMeans or MiniBatchKMeans
- transformer.joblib  the scikit-learn pipeline that computed its training vectors
- clusters.json       what each cluster is about, and how the two files were trained

and with --report a fourth, report.html, which presents the clusters to a person.

Both joblib files hold stock scikit-learn objects, so that KServe's own scikit-learn server can load them.
Based on scikit-learn's example "Clustering text documents using k-means":
https://scikit-learn.org/stable/auto_examples/text/plot_document_clustering.html
"""

from command_line import HelpFormatter, add_log_level_option, exit_on_interrupt, positive_int

if __name__ == "__main__":
    exit_on_interrupt()

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coloredlogs

from assignment.assignment_file import Selection, add_assignment_options, assignment_file
from assignment.parallel import add_engine_options, assign_all
from corpus.documents import Batch
from corpus.protection import add_overwrite_option
from corpus.source import Source, add_dataset_options, source_of
from failure import report_errors
from model import artefacts
from model.artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE
from model.assigner import Assigned, Assigner, TermSums
from model.projection import Lsa
from training.cluster_changes import log_cluster_changes
from training.cluster_count import AUTO, cluster_numbers
from training.cluster_statistics import ClusterStatistics
from training.earlier_model import add_like_options, read_earlier_model
from training.fitting import FittedModel, Settings, choose_number, fit_model
from training.preflight import check_before_training
from training.progress import timed
from training.sample import Sample, limit_dimensions, read_sample
from training.scores import log_rejections, log_scores, measure_scores
from training.summary import check_statistics, describe_clusters, summarise_training
from training.terms_file import add_terms_option, write_terms

REPORT_FILE = "report.html"
CLUSTERS = 20

log = logging.getLogger("text_clustering")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], formatter_class=HelpFormatter)
    add_dataset_options(parser, default=["20newsgroups"])
    parser.add_argument(
        "--sample",
        type=positive_int,
        default=100_000,
        metavar="N",
        help="documents to fit the model on, drawn at random from a larger corpus",
    )
    parser.add_argument(
        "--clusters",
        type=cluster_numbers,
        metavar="K",
        help=f"number of clusters, a range to choose from such as 10-40, or auto ({AUTO[0]}-{AUTO[1]}) (default: "
        f"{CLUSTERS}, or the number of the --like model)",
    )
    parser.add_argument("--lsa", type=positive_int, default=300, metavar="N", help="dimensions of the LSA space")
    parser.add_argument("--no-minibatch", action="store_true", help="ordinary k-means instead of mini-batch k-means")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed")
    add_like_options(parser)
    parser.add_argument(
        "--keep-boilerplate", action="store_true", help="use also the lines that recur in many documents"
    )
    add_engine_options(parser)
    add_assignment_options(parser)
    add_terms_option(parser)
    parser.add_argument("--output-dir", type=Path, default=Path("."), metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--report", action="store_true", help=f"also write {REPORT_FILE}, which presents the clusters in a browser"
    )
    add_overwrite_option(parser)
    parser.add_argument("--verbose", action="store_true", help="print the progress of k-means")
    add_log_level_option(parser)
    return parser.parse_args()


def train(arguments: argparse.Namespace, write_assignments: Callable[[Batch, Assigned, dict[int, str]], None]) -> None:
    """Read a sample, fit the model, assign all documents, describe the clusters, write the files."""
    if arguments.report:
        import report.page  # noqa: F401 - without Bokeh this fails here instead of after the training
    earlier = read_earlier_model(arguments.like, arguments.s3_endpoint, arguments.merge) if arguments.like else None
    lowest, highest = arguments.clusters or [len(earlier.sizes()) if earlier else CLUSTERS] * 2
    source = source_of(arguments)
    sample = read_sample(source, arguments.sample, lowest, arguments.seed, arguments.keep_boilerplate)
    lsa = limit_dimensions(arguments.lsa, sample)
    clusters, agreement = choose_number(sample, lowest, highest, lsa, arguments.seed)
    settings = Settings(clusters, lsa, not arguments.no_minibatch, arguments.seed, arguments.verbose)
    fitted = fit_model(sample, settings, earlier)

    statistics = ClusterStatistics(len(fitted.model.cluster_centers_), sample.weights.shape[1])
    names = fitted.continuation.names()
    with timed("Assigning all documents"):
        for batch, (assigned, term_sums) in assign_documents(fitted, sample, source, arguments):
            statistics.add(batch, assigned, term_sums)
            write_assignments(batch, assigned, names)
    check_statistics(statistics, source, sample.documents)

    with timed("Scoring and describing the clusters"):
        scores = measure_scores(fitted.pipeline[1], fitted.model, fitted.vectors, statistics, arguments.seed)
        described = describe_clusters(fitted, sample, statistics)
    log_scores(scores, described)
    log_rejections(fitted.baseline["rejected"])
    summary = summarise_training(source, sample, settings, fitted, statistics, scores, described, agreement)
    if earlier:
        log_cluster_changes(summary)
    write_files(
        arguments, fitted, summary, make_report(summary, statistics, sample, fitted) if arguments.report else None
    )


def assign_documents(
    fitted: FittedModel, sample: Sample, source: Source, arguments: argparse.Namespace
) -> Iterator[tuple[Batch, tuple[Assigned, TermSums]]]:
    """Assign all documents of the corpus, in batches. A sample that is the whole corpus is not read again."""
    numbers = fitted.continuation.numbers
    assigner = Assigner(Lsa(fitted.pipeline), fitted.model.cluster_centers_, numbers, arguments.top)
    if not sample.is_whole_corpus:
        yield from assign_all(
            assigner, source.batches(), "assign_and_sum", sample.documents, arguments.jobs, arguments.dask
        )
        return
    assigned = assigner.nearest(fitted.pipeline[1:].transform(sample.complete_weights()))
    yield sample.corpus.as_batch(), (assigned, assigner.sum_terms(sample.weights, assigned.clusters))


def make_report(summary: dict[str, Any], statistics: ClusterStatistics, sample: Sample, fitted: FittedModel) -> str:
    from report.page import render_report

    with timed("Creating the report"):
        titles = sample.corpus.select(sample.in_vocabulary).titles
        return render_report(summary, statistics, titles, fitted.model, fitted.vectors)


def write_files(
    arguments: argparse.Namespace, fitted: FittedModel, summary: dict[str, Any], report: str | None
) -> None:
    """Write the model and the report, all or nothing."""
    texts = {} if report is None else {REPORT_FILE: report}
    if report is None and (arguments.output_dir / REPORT_FILE).exists():
        log.warning("%s shows an earlier model; --report renews it", arguments.output_dir / REPORT_FILE)
    # The vectorizer stores a memory address, by which the files of the same model would differ from run to run.
    vars(fitted.pipeline[0]).pop("_stop_words_id", None)
    artefacts.save(arguments.output_dir, fitted.model, fitted.pipeline, summary, texts)
    files = ", ".join([MODEL_FILE, TRANSFORMER_FILE, CLUSTERS_FILE, *texts])
    log.info("Wrote %s to %s", files, arguments.output_dir.resolve())
    if arguments.terms:
        write_terms(arguments.terms, summary["clusters"])


def main() -> None:
    arguments = parse_arguments()
    coloredlogs.install(level=arguments.log_level)
    logging.captureWarnings(True)  # as log lines, without the source lines of libraries
    warnings.formatwarning = lambda message, *_: str(message)
    warnings.filterwarnings("ignore", "Number of distinct clusters")  # of each run; fit_model warns once
    with report_errors(log):
        check_before_training(arguments, REPORT_FILE if arguments.report else None)
        selection = Selection(arguments.min_similarity, arguments.top)
        with assignment_file(arguments.assignments, selection) as write_assignments:
            train(arguments, write_assignments)


if __name__ == "__main__":
    main()
