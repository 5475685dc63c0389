"""Write the clusters and their terms to a .parquet, .csv or .jsonl file, the latter two also .gz."""

import argparse
import logging
from pathlib import Path
from typing import Any

import pyarrow

from assignment.table_file import SUFFIXES, column_names, table_file, table_path
from corpus.protection import Output

SCHEMA = pyarrow.schema(
    {
        "cluster": pyarrow.int32(),
        "cluster_name": pyarrow.string(),
        "size": pyarrow.int64(),
        "rank": pyarrow.int32(),
        "term": pyarrow.string(),
        "weight": pyarrow.float64(),
    }
)

log = logging.getLogger("text_clustering")


def add_terms_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--terms",
        type=table_path,
        metavar="FILE",
        help=f"write the clusters with their sizes and top terms to a file; its name ends in {', '.join(SUFFIXES)}",
    )


def terms_output(path: Path | None) -> list[Output]:
    """The file of terms among the outputs of a program; none without a path."""
    return [Output(path, "--terms", lambda existing: column_names(existing) == SCHEMA.names)] if path else []


def write_terms(path: Path, clusters: list[dict[str, Any]]) -> None:
    """Write a row per cluster and term; one without a term for a cluster without documents.

    Args:
        clusters: of clusters.json.

    Raises:
        OSError: the file cannot be written; a previous one stays as it was.
    """
    rows = [
        {"cluster": cluster["cluster"], "cluster_name": cluster.get("name"), "size": cluster["size"]}
        | {"rank": rank, "term": term, "weight": weight}
        for cluster in clusters
        for rank, (term, weight) in enumerate(cluster["terms"] or [(None, None)], start=1)
    ]
    with table_file(path, SCHEMA) as write:
        write(pyarrow.Table.from_pylist(rows, SCHEMA))
    log.info("Wrote %s", path.resolve())
