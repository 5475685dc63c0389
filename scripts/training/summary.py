"""Assemble the content of clusters.json."""

import logging
from typing import Any

from threadpoolctl import threadpool_limits

from corpus.source import CorpusError, Source
from model import artefacts
from training.cluster_statistics import ClusterStatistics
from training.displayed_terms import describe_terms
from training.fitting import FittedModel, Settings
from training.sample import Sample

log = logging.getLogger("text_clustering")


def check_statistics(statistics: ClusterStatistics, source: Source, documents: int) -> None:
    """Log what the statistics leave out.

    Raises:
        CorpusError: the corpus changed between the two times that it was read.
    """
    if statistics.documents != documents:
        raise CorpusError(
            f"{source.name} had {documents} documents when it was sampled and {statistics.documents} when these were "
            "assigned: do not change it during a training."
        )
    if statistics.unknown:
        log.warning(
            "%d of %d documents have no in-vocabulary term: they are in no cluster (-1)", statistics.unknown, documents
        )
    if statistics.labels and statistics.with_label < documents:
        log.info(
            "%d of %d documents have a label: the scores that need labels are computed on these",
            *(statistics.with_label, documents),
        )


def describe_clusters(fitted: FittedModel, sample: Sample, statistics: ClusterStatistics) -> list[dict[str, Any]]:
    """Describe each cluster as in clusters.json, ordered by number."""
    with threadpool_limits(1):  # the matrices are small: a second thread would only wait, which takes as much CPU
        terms = describe_terms(fitted, sample, statistics)
    continuation = fitted.continuation
    described = [
        {"cluster": number, **inherited, "size": int(statistics.sizes[number]), **terms[number]}
        | {"titles": statistics.titles(number), **baseline}
        | {"centroid": fitted.model.cluster_centers_[number].tolist()}
        for number, inherited, baseline in zip(continuation.numbers, continuation.inherited, fitted.baselines)
    ]
    return sorted(described, key=lambda cluster: cluster["cluster"])


def summarise_training(
    source: Source,
    sample: Sample,
    settings: Settings,
    fitted: FittedModel,
    statistics: ClusterStatistics,
    scores: dict[str, float],
    clusters: list[dict[str, Any]],
    agreement: dict[int, float],
) -> dict[str, Any]:
    """The content of clusters.json, without the checksums of the files.

    Args:
        clusters: the result of describe_clusters.
        agreement: the share of reproduced clusters, by number of clusters.
    """
    return artefacts.summarise(
        dataset={
            "name": source.name,
            "documents": sample.documents,
            "labels": statistics.labels,
            "unknown": statistics.unknown,
            "left_out": dict(+source.findings.left_out),
            **({"unreadable_dates": unreadable} if (unreadable := source.findings.unreadable_dates) else {}),
        },
        settings={
            "clusters": settings.clusters,
            "lsa": settings.lsa,
            "sample": len(sample.corpus.documents),
            "minibatch": settings.minibatch,
            "seed": settings.seed,
        },
        metrics=scores,
        clusters=clusters,
        baseline={"unknown": statistics.unknown / sample.documents, **fitted.baseline},
        lineage=fitted.continuation.lineage,
        agreement_of_halves={str(number): value for number, value in agreement.items()},
    )
