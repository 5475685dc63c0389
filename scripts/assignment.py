"""The pass over all documents: which cluster each belongs to, in batches and in parallel."""

import argparse
import functools
import logging
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from joblib import Parallel, delayed
from scipy.sparse import csr_matrix, diags
from sklearn.preprocessing import normalize

from documents import Batch
from projection import Lsa

NO_CLUSTER = -1
PROGRESS_SECONDS = 5

log = logging.getLogger("text_clustering")


class Assigned(NamedTuple):
    """Where documents belong; arrays of shape (documents,), NO_CLUSTER and nan for those without a known term."""

    clusters: np.ndarray
    similarities: np.ndarray  # cosine to the centroid of the cluster
    runners_up: np.ndarray  # the second nearest clusters; NO_CLUSTER where there is one cluster only
    runner_up_similarities: np.ndarray
    margins: np.ndarray  # how much farther the runner-up's centroid is than the cluster's


class TermSums(NamedTuple):
    """What the documents of each cluster are made of; both of shape (rows of centroids, terms)."""

    weights: csr_matrix  # sums of TF-IDF
    documents: csr_matrix  # numbers of documents that have the term


class Assigner:
    """The fitted model, arranged to assign many documents at a time; the answers are those of the service.

    Args:
        centroids: row n is the centroid of cluster n, shape (rows, dimensions).
        numbers: the rows that are clusters; the others keep the place of a number that is not used.
    """

    def __init__(self, lsa: Lsa, centroids: np.ndarray, numbers: list[int]):
        self.analyze, self.vocabulary, self.sublinear_tf = lsa.analyze, lsa.vocabulary, lsa.sublinear_tf
        self.projection, self.idf = lsa.projection, lsa.idf
        self.centroids = centroids
        self.half_squared_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
        self.unit_centroids = normalize(centroids)
        self.half_squared_norms[np.setdiff1d(np.arange(len(centroids)), numbers)] = np.inf

    def assign(self, documents: list[str]) -> Assigned:
        return self.nearest(normalize(self.weigh(documents) @ self.projection))

    def assign_and_sum(self, documents: list[str]) -> tuple[Assigned, TermSums]:
        weights = self.weigh(documents)
        assigned = self.nearest(normalize(weights @ self.projection))
        return assigned, self.sum_terms(normalize(weights @ diags(self.idf)), assigned.clusters)

    def weigh(self, documents: list[str]) -> csr_matrix:
        """Count the known terms and dampen the counts: weights before idf, of shape (documents, terms)."""
        terms = list(map(self.analyze, documents))
        ends = np.cumsum([0, *map(len, terms)])
        columns = np.fromiter(map(self.vocabulary.get, chain.from_iterable(terms), repeat(-1)), np.int32, ends[-1])
        known = columns >= 0
        ends = np.concatenate([[0], known.cumsum()])[ends]
        shape = len(documents), len(self.projection)
        weights = csr_matrix((np.ones(ends[-1]), columns[known], ends), shape=shape)
        weights.sum_duplicates()
        if self.sublinear_tf:
            weights.data = 1 + np.log(weights.data)
        return weights

    def nearest(self, vectors: np.ndarray) -> Assigned:
        """Find the nearest clusters of unit vectors, shape (documents, dimensions); zeros have no known term."""
        rows, known = np.arange(len(vectors)), vectors.any(axis=1)
        # |x - c|^2 / 2 = |x|^2 / 2 + |c|^2 / 2 - x . c, as in scikit-learn's k-means; here without |x|^2 / 2 = 1 / 2.
        distances = self.half_squared_norms - vectors @ self.centroids.T
        clusters = distances.argmin(axis=1)
        nearest = distances[rows, clusters]
        distances[rows, clusters] = np.inf
        runners_up = distances.argmin(axis=1)
        next_nearest = distances[rows, runners_up]
        margins = np.sqrt((1 + 2 * next_nearest).clip(0)) - np.sqrt((1 + 2 * nearest).clip(0))
        similarities = np.einsum("ij,ij->i", vectors, self.unit_centroids[clusters])
        runner_up_similarities = np.einsum("ij,ij->i", vectors, self.unit_centroids[runners_up])
        two = np.isfinite(next_nearest)
        return Assigned(
            np.where(known, clusters, NO_CLUSTER).astype(np.int32),
            np.where(known, similarities, np.nan),
            np.where(known & two, runners_up, NO_CLUSTER).astype(np.int32),
            np.where(known & two, runner_up_similarities, np.nan),
            np.where(known, margins, np.nan),
        )

    def sum_terms(self, weights: csr_matrix, clusters: np.ndarray) -> TermSums:
        """Sum TF-IDF, of shape (documents, terms), by cluster."""
        known = np.flatnonzero(clusters != NO_CLUSTER)
        shape = len(self.centroids), len(clusters)
        membership = csr_matrix((np.ones(len(known)), (clusters[known], known)), shape=shape)
        present = csr_matrix((np.ones(weights.nnz), weights.indices, weights.indptr), shape=weights.shape)
        return TermSums(membership @ weights, membership @ present)


def add_engine_options(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--jobs", type=jobs, default=-1, metavar="N", help="processes that assign the documents; -1: one a core"
    )


def jobs(text: str) -> int:
    number = int(text)
    if number < 1 and number != -1:
        raise argparse.ArgumentTypeError(f"{number} is neither a positive number nor -1")
    return number


def assign_all(
    assigner: Assigner, batches: Iterable[Batch], method: str, total: int | None, jobs: int
) -> Iterator[tuple[Batch, object]]:
    """Assign the documents of batches in parallel, in their order; a few batches are under way at a time.

    Args:
        method: of the assigner, "assign" or "assign_and_sum".
        total: the number of documents, if it is known, for the log.
        jobs: processes; -1 is one a core.

    Returns:
        Each batch with what the method makes of its documents.
    """
    waiting = deque()

    def tasks(model: Path):
        for batch in batches:
            waiting.append(batch)
            yield delayed(assign_batch)(model, method, batch.documents)

    with tempfile.TemporaryDirectory(prefix="text_clustering-") as folder:
        model = Path(folder, "assigner.joblib")
        joblib.dump(assigner, model)
        parallel = Parallel(jobs, return_as="generator", batch_size=1, pre_dispatch="2 * n_jobs")
        yield from with_progress(((waiting.popleft(), assigned) for assigned in parallel(tasks(model))), total)


def assign_batch(model: Path, method: str, documents: list[str]):
    return getattr(load_assigner(model), method)(documents)


@functools.lru_cache(maxsize=1)
def load_assigner(model: Path) -> Assigner:
    """Once in each process: to send the model along with every batch would take longer than to assign it."""
    return joblib.load(model)


def with_progress(results: Iterable[tuple[Batch, object]], total: int | None) -> Iterator[tuple[Batch, object]]:
    """Pass results on, and log now and then how far they are, how fast, and how long the rest will take."""
    done = 0
    started = None
    for batch, assigned in results:
        yield batch, assigned
        done += len(batch.documents)
        if started is None:  # only now are the workers up
            started = reported = time.monotonic()
            first = done
        elif time.monotonic() - reported > PROGRESS_SECONDS:
            reported = time.monotonic()
            log_progress(done, total, (done - first) / (reported - started))


def log_progress(done: int, total: int | None, rate: float):
    if total:
        log.info(
            "%s of %s documents assigned, %s a second, %d s left",
            *(f"{done:,}", f"{total:,}", f"{rate:,.0f}", max(total - done, 0) / rate),
        )
    else:
        log.info("%s documents assigned, %s a second", f"{done:,}", f"{rate:,.0f}")
