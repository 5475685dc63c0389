"""Checks before a training, so that none is wasted: the outputs, and the version of scikit-learn."""

import argparse
import json
import logging
from pathlib import Path

import sklearn

from assignment.assignment_file import assignment_output
from corpus.protection import Output, check_outputs
from failure import BadInput
from model.artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE, predictor_scikit_learn
from training.terms_file import terms_output

log = logging.getLogger("text_clustering")


def check_before_training(arguments: argparse.Namespace, report: str | None) -> None:
    """Check what the training is going to write, and warn if the predictor would refuse its model.

    Args:
        report: the name of the report's file if one is requested.

    Raises:
        BadInput: an output cannot be written, or would replace or join what it must not.
    """
    if (arguments.min_similarity or arguments.top) and not arguments.assignments:
        raise BadInput("--min-similarity and --top are about the file of --assignments: give that as well.")
    if arguments.merge and not arguments.like:
        raise BadInput("--merge joins clusters of an earlier model: name it with --like.")
    names = [CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE, *([report] if report else [])]
    outputs = [Output(arguments.output_dir / name, "--output-dir", is_of_a_training) for name in names]
    outputs += [*assignment_output(arguments.assignments), *terms_output(arguments.terms)]
    check_outputs(arguments.dataset, outputs, arguments.overwrite)
    if sklearn.__version__ != predictor_scikit_learn():
        log.warning(
            "scikit-learn %s is installed, but KServe's predictor has %s and will refuse this model: install "
            "scripts/requirements.txt first (scripts/venv.sh)",
            *(sklearn.__version__, predictor_scikit_learn()),
        )


def is_of_a_training(path: Path) -> bool:
    """Whether a file lies beside the clusters.json of a training."""
    try:
        summary = json.loads(path.with_name(CLUSTERS_FILE).read_bytes())
        return MODEL_FILE in summary["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
