"""Write the cluster of each document to a .parquet, .csv or .jsonl file, the latter two also .gz."""

import argparse
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow

from assignment.table_file import SUFFIXES, column_names, table_file, table_path
from command_line import positive_int, similarity
from corpus.documents import Batch
from corpus.protection import Output
from model.assigner import Assigned
from model.clusters import NO_CLUSTER, reject_distant

SCHEMA = pyarrow.schema(
    {
        "document": pyarrow.string(),
        "title": pyarrow.string(),
        "cluster": pyarrow.int32(),
        "cluster_name": pyarrow.string(),
        "similarity": pyarrow.float64(),
        "runner_up": pyarrow.int32(),
        "runner_up_similarity": pyarrow.float64(),
        "date": pyarrow.timestamp("us", "UTC"),
    }
)


Write = Callable[[Batch, Assigned, dict[int, str]], None]

log = logging.getLogger("text_clustering")


def add_assignment_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    parser.add_argument(
        "--assignments",
        type=table_path,
        required=required,
        metavar="FILE",
        help=f"write the cluster of each document to a file; its name ends in {', '.join(SUFFIXES)}",
    )
    parser.add_argument(
        "--top",
        type=positive_int,
        default=0,
        metavar="N",
        help="in the assignments, also list the N nearest clusters with their similarities",
    )
    parser.add_argument(
        "--min-similarity",
        type=similarity,
        metavar="COSINE",
        help="in the assignments, put documents into no cluster (-1) if the nearest one is less similar than this, such as "
        "0.7 (default: never)",
    )


def assignment_output(path: Path | None) -> list[Output]:
    """The assignment file among the outputs of a program; none without a path."""
    return [Output(path, "--assignments", is_assignment_file)] if path else []


class Selection(NamedTuple):
    """What an assignment file contains beyond the defaults."""

    min_similarity: float | None = None  # documents that are less similar are put into no cluster
    top: int = 0  # the number of nearest clusters listed

    def schema(self) -> pyarrow.Schema:
        listed = {
            f"top_{place}{part}": kind
            for place in range(1, self.top + 1)
            for part, kind in (("", pyarrow.int32()), ("_name", pyarrow.string()), ("_similarity", pyarrow.float64()))
        }
        return pyarrow.schema([*SCHEMA, *pyarrow.schema(listed)])


@contextlib.contextmanager
def assignment_file(path: Path | None, selection: Selection) -> Iterator[Write]:
    """Write assignments batch by batch into a temporary file, which replaces the requested one at the end.

    Yields:
        A function that writes a batch, given the names that people gave to clusters; without a path it does nothing.

    Raises:
        OSError: the file cannot be written; a previous one stays as it was.
    """
    if path is None:
        yield lambda batch, assigned, names: None
        return
    counts: Counter[str] = Counter()
    with table_file(path, selection.schema()) as write:

        def write_batch(batch: Batch, assigned: Assigned, names: dict[int, str]) -> None:
            kept = reject(assigned, selection.min_similarity, counts)
            write(as_table(batch, kept, names, selection))

        yield write_batch
    log_assignments(path, selection.min_similarity, counts)


def reject(assigned: Assigned, min_similarity: float | None, counts: Counter[str]) -> Assigned:
    """Put documents that are too far from all clusters into no cluster, and count them."""
    kept = assigned._replace(clusters=reject_distant(assigned.clusters, assigned.similarities, min_similarity))
    unknown = int(np.sum(assigned.clusters == NO_CLUSTER))
    counts["documents"] += len(kept.clusters)
    counts["unknown"] += unknown
    counts["rejected"] += int(np.sum(kept.clusters == NO_CLUSTER)) - unknown
    return kept


def log_assignments(path: Path, min_similarity: float | None, counts: Counter[str]) -> None:
    rejected = f", {counts['rejected']} less similar than {min_similarity:g} (-1)" if min_similarity else ""
    log.info(
        "%d documents, %d of them without an in-vocabulary term (-1)%s",
        *(counts["documents"], counts["unknown"], rejected),
    )
    log.info("Wrote %s", path.resolve())


def is_assignment_file(path: Path) -> bool:
    """Whether a file has the columns of an assignment file."""
    names = column_names(path) or []
    listed = Selection(top=(len(names) - len(SCHEMA.names)) // 3).schema()
    return names == listed.names or names == [name for name in SCHEMA.names if name != "date"]  # of earlier versions


def as_table(batch: Batch, assigned: Assigned, names: dict[int, str], selection: Selection) -> pyarrow.Table:
    """The rows of a batch; null for what a document without an in-vocabulary term lacks, and for missing names."""
    unknown = np.isnan(assigned.similarities)
    alone = assigned.runners_up == NO_CLUSTER
    columns = [
        batch.identities,
        batch.titles,
        assigned.clusters,
        [names.get(cluster) for cluster in assigned.clusters.tolist()],
        pyarrow.array(assigned.similarities, mask=unknown),
        pyarrow.array(assigned.runners_up, mask=alone),
        pyarrow.array(assigned.runner_up_similarities, mask=alone),
        batch.dates or [None] * len(unknown),
    ]
    for numbers, similarities in zip(assigned.nearest.T, assigned.nearest_similarities.T):
        columns += [
            pyarrow.array(numbers, mask=unknown),
            pyarrow.array([names.get(number) for number in numbers.tolist()], pyarrow.string(), mask=unknown),
            pyarrow.array(np.ascontiguousarray(similarities), mask=unknown),
        ]
    schema = selection.schema()
    columns += [pyarrow.nulls(len(unknown), kind) for kind in schema.types[len(columns) :]]  # fewer clusters than --top
    return pyarrow.table(columns, schema=schema)
