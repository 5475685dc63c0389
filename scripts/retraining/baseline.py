"""Measure the baseline of a candidate on the held-out texts, which are what it is going to serve.

Monitoring compares live traffic with the baseline of the training. Where an old corpus outweighs the new texts, that is not
the distribution of the traffic: a candidate that has learned a new topic would drift from its first request on.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.artefacts import CLUSTERS_FILE, as_json
from model.clusters import NO_CLUSTER
from training.baseline import quantiles
from training.earlier_model import load_earlier_model


def measure_on(texts: Sequence[str], folder: Path) -> None:
    """Replace the shares and the overall similarity in clusters.json by those of texts that the model was not trained on.

    Raises:
        OSError: clusters.json cannot be written.
    """
    candidate = load_earlier_model(folder)
    numbers, similarities = candidate.assign(list(texts))
    known = numbers != NO_CLUSTER
    if not known.any():
        return
    for cluster in candidate.summary["clusters"]:
        cluster["share"] = float(np.mean(numbers[known] == cluster["cluster"]))
    candidate.summary["baseline"] |= {
        "documents": len(texts),
        "unknown": float(np.mean(~known)),
        "similarity": quantiles(similarities[known]),
    }
    (folder / CLUSTERS_FILE).write_text(as_json(candidate.summary), encoding="utf-8")
