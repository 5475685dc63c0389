"""Read the earlier model that --like names, and merge clusters of it."""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import normalize

from corpus.bucket import Bucket
from failure import BadInput
from model import artefacts
from model.artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE, ArtefactError


class EarlierModel(NamedTuple):
    version: str  # as deploy_service.py names it
    summary: dict  # the content of clusters.json
    model: KMeans
    pipeline: Pipeline
    merged: Mapping[int, int] = MappingProxyType({})  # surviving numbers by those merged into them

    def assign(self, documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Assign documents: cluster numbers, -1 without an in-vocabulary term, and cosines to their centroids."""
        vectors = self.pipeline.transform(documents)
        numbers = self.model.predict(vectors)
        similarities = np.einsum("ij,ij->i", vectors, normalize(self.model.cluster_centers_)[numbers])
        return np.where(vectors.any(axis=1), numbers, -1), similarities

    def merge(self, numbers: np.ndarray) -> np.ndarray:
        """Replace the numbers of merged clusters by those that survive."""
        replaced = numbers.copy()
        for number, survivor in self.merged.items():
            replaced[numbers == number] = survivor
        return replaced

    def sizes(self) -> dict[int, int]:
        """The number of documents of each cluster, merged ones together."""
        sizes: Counter[int] = Counter()
        for cluster in self.summary["clusters"]:
            sizes[self.merged.get(cluster["cluster"], cluster["cluster"])] += cluster["size"]
        return sizes


def add_like_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--like",
        metavar="DIR",
        help="an earlier model, whose clusters are continued and keep their numbers and names: the folder of its three "
        "files, or s3://BUCKET/NAME/VERSION/ as uploaded by deploy_service.py",
    )
    parser.add_argument(
        "--merge",
        type=cluster_group,
        action="append",
        default=[],
        metavar="N+N",
        help="merge clusters of the --like model, such as 3+7+9: the first number survives; can be repeated",
    )


def cluster_group(text: str) -> list[int]:
    """Cluster numbers joined by +, at least two. Raises ArgumentTypeError for anything else."""
    numbers = text.split("+")
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not two or more cluster numbers such as 3+7")
    return list(map(int, numbers))


def read_earlier_model(place: str, endpoint: str, merges: Sequence[Sequence[int]] = ()) -> EarlierModel:
    """Read the model in a folder, or a version in a store: s3://BUCKET/NAME/VERSION/.

    Args:
        merges: groups of cluster numbers to merge; the first of each survives.

    Raises:
        ArtefactError: it does not exist, is damaged, or needs another scikit-learn.
        CorpusError: the store cannot be read.
        BadInput: the clusters cannot be merged.
    """
    earlier = fetch_earlier_model(place, endpoint)
    earlier = earlier._replace(merged={number: group[0] for group in merges for number in group[1:]})
    numbers = [cluster["cluster"] for cluster in earlier.summary["clusters"]]
    named = [number for group in merges for number in group]
    for number, count in Counter(named).items():
        if number not in numbers:
            raise BadInput(f"--merge: {place} has no cluster {number}; it has {', '.join(map(str, numbers))}.")
        if count > 1:
            raise BadInput(
                f"--merge names cluster {number} twice: name all clusters to merge into one once, as in 3+7+9."
            )
    if merges and len(earlier.sizes()) == 1:
        raise BadInput("--merge would merge all clusters into one, which tells no documents apart: merge fewer.")
    return earlier


def fetch_earlier_model(place: str, endpoint: str) -> EarlierModel:
    if not place.startswith("s3://"):
        return load_earlier_model(Path(place))
    with (
        Bucket(place if place.endswith("/") else f"{place}/", endpoint) as bucket,
        tempfile.TemporaryDirectory() as folder,
    ):
        wanted = (f"model/{MODEL_FILE}", f"transformer/{TRANSFORMER_FILE}", f"transformer/{CLUSTERS_FILE}")
        missing = set(wanted) - set(bucket.names())
        if missing:
            raise ArtefactError(
                f"{place} has no {', '.join(sorted(missing))}: give s3://BUCKET/NAME/VERSION/ as deploy_service.py "
                "uploaded it (--list shows the versions)."
            )
        for key in wanted:
            with bucket.fetch(bucket.prefix + key) as download:
                Path(folder, Path(key).name).write_bytes(download.read_bytes())
        return load_earlier_model(Path(folder))


def load_earlier_model(folder: Path) -> EarlierModel:
    try:
        summary = artefacts.read_summary(folder / CLUSTERS_FILE)
        digests = artefacts.check_together(summary, folder / MODEL_FILE, folder / TRANSFORMER_FILE)
        model, pipeline = (artefacts.load(folder / name, summary) for name in (MODEL_FILE, TRANSFORMER_FILE))
    except ArtefactError as error:
        raise ArtefactError(f"--like: {error}") from error
    version = artefacts.version_name([*digests.values(), artefacts.sha256(folder / CLUSTERS_FILE)])
    return EarlierModel(version, summary, model, pipeline)
