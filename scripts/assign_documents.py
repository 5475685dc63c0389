#!/usr/bin/env python
"""Assign documents to the clusters of a trained model: batch prediction.

    python ./scripts/assign_documents.py --dataset tickets.csv --assignments tickets-clusters.csv

The results are those of the service: -1 for a document without an in-vocabulary term and, with --min-similarity, for
one that is too far from all clusters. The model is the three files that text_clustering.py wrote.
"""

import argparse
import logging
from pathlib import Path

from command_line import HelpFormatter, add_log_level_option, exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()

import coloredlogs

from assignment.assignment_file import Selection, add_assignment_options, assignment_file, assignment_output
from assignment.parallel import add_engine_options, assign_all
from corpus.protection import add_overwrite_option, check_outputs
from corpus.source import CorpusError, add_dataset_options, source_of
from failure import report_errors
from model import artefacts
from model.assigner import Assigner
from model.projection import Lsa

log = logging.getLogger("text_clustering")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    add_dataset_options(parser, required=True)
    parser.add_argument("--model-path", type=Path, default=Path(artefacts.MODEL_FILE), help="the k-means model")
    parser.add_argument(
        "--transformer-path",
        type=Path,
        default=Path(artefacts.TRANSFORMER_FILE),
        help="the pipeline, in the same folder as clusters.json",
    )
    add_assignment_options(parser, required=True)
    add_overwrite_option(parser)
    add_engine_options(parser)
    add_log_level_option(parser)
    return parser.parse_args()


def load_assigner(model_path: Path, transformer_path: Path, top: int = 0) -> tuple[Assigner, dict[int, str]]:
    """Load a model with the same checks as the service.

    Args:
        top: how many of the nearest clusters the assigner finds beside the two nearest.

    Returns:
        The assigner, and the names that people gave to clusters.

    Raises:
        ArtefactError: the files are missing, do not belong together, or are of another scikit-learn.
    """
    summary = artefacts.read_summary(transformer_path.with_name(artefacts.CLUSTERS_FILE))
    artefacts.check_together(summary, model_path, transformer_path)
    lsa = Lsa(artefacts.load_pipeline(transformer_path, summary))
    centroids = artefacts.load(model_path, summary).cluster_centers_
    names = {cluster["cluster"]: cluster["name"] for cluster in summary["clusters"] if "name" in cluster}
    return Assigner(lsa, centroids, [cluster["cluster"] for cluster in summary["clusters"]], top), names


def assign(arguments: argparse.Namespace) -> None:
    check_outputs(arguments.dataset, assignment_output(arguments.assignments), arguments.overwrite)
    assigner, names = load_assigner(arguments.model_path, arguments.transformer_path, arguments.top)
    source = source_of(arguments)
    documents = 0
    with assignment_file(arguments.assignments, Selection(arguments.min_similarity, arguments.top)) as write:
        for batch, assigned in assign_all(assigner, source.batches(), "assign", None, arguments.jobs, arguments.dask):
            write(batch, assigned, names)
            documents += len(batch.documents)
        source.findings.log(source.name)
        if not documents:
            raise CorpusError(f"{source.name} has no document with text in it.")


def main() -> None:
    arguments = parse_arguments()
    coloredlogs.install(level=arguments.log_level)
    with report_errors(log):
        assign(arguments)


if __name__ == "__main__":
    main()
