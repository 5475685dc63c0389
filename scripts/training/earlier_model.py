"""Read the earlier model that --like names."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import normalize

from corpus.bucket import Bucket
from model import artefacts
from model.artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE, ArtefactError


class EarlierModel(NamedTuple):
    version: str  # as deploy_service.py names it
    summary: dict  # the content of clusters.json
    model: KMeans
    pipeline: Pipeline

    def assign(self, documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Assign documents: cluster numbers, -1 without an in-vocabulary term, and cosines to their centroids."""
        vectors = self.pipeline.transform(documents)
        numbers = self.model.predict(vectors)
        similarities = np.einsum("ij,ij->i", vectors, normalize(self.model.cluster_centers_)[numbers])
        return np.where(vectors.any(axis=1), numbers, -1), similarities


def read_earlier_model(place: str, endpoint: str) -> EarlierModel:
    """Read the model in a folder, or a version in a store: s3://BUCKET/NAME/VERSION/.

    Raises:
        ArtefactError: it does not exist, is damaged, or needs another scikit-learn.
        CorpusError: the store cannot be read.
    """
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
