"""Compare a candidate with the stable version on texts that neither was trained on, before anything is deployed.

Both are measured in the same way, each in its own space, as unseen documents are in training/baseline.py. There is a limit
for the candidate's own value and one for the change, as in TFX's Evaluator (value_threshold and change_threshold of
tensorflow/model-analysis, proto/config.proto).
"""

from typing import NamedTuple

import numpy as np

from model.clusters import NO_CLUSTER
from retraining.decision import INCONCLUSIVE, REJECTED
from training.earlier_model import EarlierModel

PASSED = "passed"


class Limits(NamedTuple):
    max_unknown: float = 0.2  # share of the texts without an in-vocabulary term
    max_unknown_rise: float = 0.02
    min_median_similarity: float = 0.5  # median
    max_similarity_drop: float = 0.05
    min_agreement: float = 0.8
    min_kept: float = 0.8
    min_documents: int = 50


class Figures(NamedTuple):
    """What is measured on the held-out texts; pairs are of the candidate and of the stable version."""

    documents: int
    unknown: tuple[float, float]  # share without an in-vocabulary term
    similarity: tuple[float, float]  # median cosine to the centroid; 0 if all are unknown
    compared: int  # texts that both assign, the candidate to a number of the stable version
    agreement: float  # share of these that have the same number in both
    kept: float  # share of the stable version's numbers that the candidate has


class Report(NamedTuple):
    verdict: str  # PASSED, REJECTED or INCONCLUSIVE
    reason: str


def measure(candidate: EarlierModel, stable: EarlierModel, texts: list[str]) -> Figures:
    """Measure both models on held-out texts; their number must not be 0."""
    (new, new_cosines), (old, old_cosines) = candidate.assign(texts), stable.assign(texts)
    new_numbers, old_numbers = numbers_of(candidate), numbers_of(stable)
    # Texts of a new topic have a new number, and the stable version cannot agree.
    both = (new != NO_CLUSTER) & (old != NO_CLUSTER) & np.isin(new, sorted(old_numbers))
    return Figures(
        len(texts),
        (float(np.mean(new == NO_CLUSTER)), float(np.mean(old == NO_CLUSTER))),
        (median(new_cosines[new != NO_CLUSTER]), median(old_cosines[old != NO_CLUSTER])),
        int(both.sum()),
        float(np.mean(new[both] == old[both])) if both.any() else 0.0,
        len(new_numbers & old_numbers) / len(old_numbers),
    )


def numbers_of(model: EarlierModel) -> set[int]:
    """The numbers of the clusters that have documents."""
    return {cluster["cluster"] for cluster in model.summary["clusters"] if cluster["size"]}


def median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def judge(figures: Figures, limits: Limits) -> Report:
    """Whether a candidate may be deployed as a canary."""
    if figures.documents < limits.min_documents:
        return Report(INCONCLUSIVE, f"{figures.documents} held-out texts, and {limits.min_documents} are needed")
    (unknown, unknown_before), (similarity, similarity_before) = figures.unknown, figures.similarity
    problems = {
        f"{unknown:.1%} of the texts have no in-vocabulary term (limit {limits.max_unknown:.1%})": (
            unknown > limits.max_unknown
        ),
        f"{unknown:.1%} of the texts have no in-vocabulary term, {unknown_before:.1%} in the stable version": (
            unknown > unknown_before + limits.max_unknown_rise
        ),
        f"the median similarity is {similarity:.3f} (limit {limits.min_median_similarity:.3f})": (
            similarity < limits.min_median_similarity
        ),
        f"the median similarity is {similarity:.3f}, and {similarity_before:.3f} in the stable version": (
            similarity < similarity_before - limits.max_similarity_drop
        ),
        f"it keeps {figures.kept:.1%} of the cluster numbers (limit {limits.min_kept:.1%})": (
            figures.kept < limits.min_kept
        ),
    }
    found = [problem for problem, applies in problems.items() if applies]
    if not found and figures.compared < limits.min_documents:
        return Report(INCONCLUSIVE, f"only {figures.compared} held-out texts are in clusters that both versions have")
    if figures.compared >= limits.min_documents and figures.agreement < limits.min_agreement:
        found.append(f"{figures.agreement:.1%} of the texts keep their number (limit {limits.min_agreement:.1%})")
    return Report(REJECTED, "; ".join(found)) if found else Report(PASSED, summary(figures))


def summary(figures: Figures) -> str:
    return (
        f"{figures.agreement:.1%} of {figures.compared} held-out texts keep their number, median similarity "
        f"{figures.similarity[0]:.3f} after {figures.similarity[1]:.3f}"
    )
