"""Numbers that last: give clusters the numbers of those that they continue in an earlier model.

A number means the same topic for as long as models are trained --like the last one: whoever stores numbers or routes
by them need not learn them anew. New and old clusters are matched by the documents that both models assign. A cluster
that continues none gets a number that no model of the line has used, and the number of a cluster that is gone is not
given away again.
"""

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from corpus.bucket import Bucket
from model import artefacts
from model.artefacts import CLUSTERS_FILE, MODEL_FILE, TRANSFORMER_FILE, ArtefactError

# A new cluster continues an old one when the share that it keeps of the old one's documents, times the share that they
# are of its own, is at least this: half of a cluster that split evenly has 0.5, a third 0.33, and so have clusters
# that merged. Strays that an old cluster has in a corpus without its topic are far below.
CONTINUES = 0.2
GONE = 0.2  # a cluster with less than this part of its share in the documents has lost its topic, and keeps strays
DOUBTFUL = 0.05  # of the documents are the least like the clusters of the earlier model
MAIN_PART = 0.5  # of the documents of a cluster: what it was split from, or merged into
SAME_SIZE = 1.25
OUT_OF_REACH = 1_000.0

log = logging.getLogger("text_clustering")


class Earlier(NamedTuple):
    """A model of an earlier training."""

    version: str  # as deploy_service.py names it
    summary: dict
    model: KMeans
    pipeline: object

    def assign(self, documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The cluster numbers of documents, -1 where it knows no term, and the cosines to the centroids of these."""
        vectors = self.pipeline.transform(documents)
        numbers = self.model.predict(vectors)
        similarities = np.einsum("ij,ij->i", vectors, normalize(self.model.cluster_centers_)[numbers])
        return np.where(vectors.any(axis=1), numbers, -1), similarities


class Continuation(NamedTuple):
    """What became of the clusters of an earlier model."""

    numbers: list[int]  # of each new cluster
    inherited: list[dict]  # what each has from the one that it continues: continues and name of clusters.json
    lineage: dict  # of clusters.json

    def names(self) -> dict[int, str]:
        """The names that people gave to the clusters, by number."""
        return {number: of["name"] for number, of in zip(self.numbers, self.inherited) if "name" in of}


# ----------------------------------------------------------------------------------------------------------- read


def read_earlier(place: str, endpoint: str) -> Earlier:
    """Read the model in a folder, or that of a version in a store: s3://BUCKET/NAME/VERSION/.

    Raises:
        ArtefactError: it is not there, is damaged, or does not fit this scikit-learn.
        CorpusError: the store cannot be read.
    """
    if not place.startswith("s3://"):
        return load_earlier(Path(place))
    with (
        Bucket(place if place.endswith("/") else f"{place}/", endpoint) as bucket,
        tempfile.TemporaryDirectory() as folder,
    ):
        wanted = (f"model/{MODEL_FILE}", f"transformer/{TRANSFORMER_FILE}", f"transformer/{CLUSTERS_FILE}")
        missing = set(wanted) - set(bucket.names())
        if missing:
            raise ArtefactError(
                f"{place} has no {', '.join(sorted(missing))}: give s3://BUCKET/NAME/VERSION/ as deploy_service.py "
                "uploaded it (--list names the versions)."
            )
        for key in wanted:
            with bucket.fetch(bucket.prefix + key) as download:
                Path(folder, Path(key).name).write_bytes(download.read_bytes())
        return load_earlier(Path(folder))


def load_earlier(folder: Path) -> Earlier:
    try:
        summary = artefacts.read_summary(folder / CLUSTERS_FILE)
        digests = artefacts.check_together(summary, folder / MODEL_FILE, folder / TRANSFORMER_FILE)
        model, pipeline = (artefacts.load(folder / name, summary) for name in (MODEL_FILE, TRANSFORMER_FILE))
    except ArtefactError as error:
        raise ArtefactError(f"--like: {error}") from error
    version = artefacts.version_name([*digests.values(), artefacts.sha256(folder / CLUSTERS_FILE)])
    return Earlier(version, summary, model, pipeline)


# ---------------------------------------------------------------------------------------------------------- match


def as_start(earlier: Earlier, assigned: np.ndarray, similarities: np.ndarray, clusters: int) -> np.ndarray | None:
    """The clusters of an earlier model as a start for so many new ones: those that are not gone, the largest first.

    Where they leave room for others, the documents that are the least like theirs are in none: a topic that is new is
    among them. With a group of 20 Newsgroups added, its posts were 32 to 75 % of them.

    Args:
        assigned: the cluster numbers of the documents by the earlier model, -1 for none.
        similarities: the cosines to the centroids of these.

    Returns:
        The cluster of each document, from 0 on, -1 for none; None where no cluster is left.
    """
    sizes = {number: int(np.sum(assigned == number)) for number in still_there(earlier, assigned)}
    largest_first = sorted(sizes, key=lambda number: -sizes[number])
    start = np.full(len(assigned), -1)
    for place, number in enumerate(largest_first[:clusters]):
        start[assigned == number] = place
    if len(sizes) < clusters:
        start[similarities < np.quantile(similarities, DOUBTFUL)] = -1
    return start if largest_first else None


def still_there(earlier: Earlier, assigned: np.ndarray) -> list[int]:
    """The numbers of the earlier clusters that have at least a part of their share in the documents of now."""
    before = sum(cluster["size"] for cluster in earlier.summary["clusters"])
    now = max(np.sum(assigned >= 0), 1)
    return [
        cluster["cluster"]
        for cluster in earlier.summary["clusters"]
        if np.sum(assigned == cluster["cluster"]) / now > GONE * cluster["size"] / before
    ]


def continue_numbers(earlier: Earlier, assigned: np.ndarray, labels: np.ndarray, clusters: int) -> Continuation:
    """Number new clusters after the ones that they continue.

    Args:
        assigned: the cluster numbers of the documents by the earlier model, -1 for none.
        labels: the new clusters of the same documents, from 0 on.
        clusters: how many new ones there are.
    """
    old = {cluster["cluster"]: cluster for cluster in earlier.summary["clusters"]}
    rows = {number: row for row, number in enumerate(old)}
    both = assigned >= 0
    counts = np.zeros((len(old), clusters), dtype=int)
    np.add.at(counts, ([rows[number] for number in assigned[both].tolist()], labels[both]), 1)
    there = still_there(earlier, assigned)
    kept = counts / counts.sum(axis=1, keepdims=True).clip(1)
    gained = counts / counts.sum(axis=0).clip(1)

    next_number, numbers, old_numbers = next_free_number(earlier.summary), [], list(old)
    matched = zip(*linear_sum_assignment(counts, maximize=True))
    partner = {
        new: row for row, new in matched if old_numbers[row] in there and kept[row, new] * gained[row, new] >= CONTINUES
    }
    for new in range(clusters):
        if new in partner:
            numbers.append(old_numbers[partner[new]])
        else:
            numbers.append(next_number)
            next_number += 1

    def shares(values: np.ndarray, names: list[int], but: int | None = None) -> dict:
        """By number, the largest first; JSON has only strings for keys. What is less than a hundredth is left out."""
        order = [i for i in np.argsort(-values, kind="stable") if values[i] >= 0.01 and names[i] != but]
        return {str(names[i]): round(float(values[i]), 3) for i in order}

    inherited = [{} for _ in numbers]
    for new, row in partner.items():
        cluster = old[numbers[new]]
        continues = {
            "size": cluster["size"],
            "kept": round(float(kept[row, new]), 3),
            "lost": shares(kept[row], numbers, but=numbers[new]),
            "gained": shares(gained[:, new], old_numbers, but=numbers[new]),
        }
        inherited[new] = {"continues": continues} | {name: cluster[name] for name in ("name",) if name in cluster}
    agreement = sum(counts[row, new] for new, row in partner.items()) / max(both.sum(), 1)
    return Continuation(
        numbers,
        inherited,
        {
            "earlier": {name: earlier.summary[name] for name in ("created", "dataset")} | {"version": earlier.version},
            "versions": [earlier.version, *earlier.summary.get("lineage", {}).get("versions", [])],
            "documents": int(both.sum()),
            "agreement": round(float(agreement), 4),
            "next_number": next_number,
            "new": {str(numbers[n]): shares(gained[:, n], old_numbers) for n in range(clusters) if n not in partner},
            "gone": {
                str(number): {"size": cluster["size"], "to": shares(kept[rows[number]], numbers)}
                | {name: cluster[name] for name in ("name", "terms") if name in cluster}
                for number, cluster in old.items()
                if number not in numbers
            },
        },
    )


def first_of_its_line(clusters: int) -> Continuation:
    return Continuation(list(range(clusters)), [{}] * clusters, {})


def next_free_number(summary: dict) -> int:
    """The first number that neither a model nor those before it have used."""
    used = 1 + max(cluster["cluster"] for cluster in summary["clusters"])
    return max(used, summary.get("lineage", {}).get("next_number", 0))


def renumber(model: KMeans, numbers: list[int]) -> KMeans:
    """Let k-means answer these numbers: cluster i becomes numbers[i].

    predict answers the row of the nearest centroid, also in KServe's own server, which knows nothing of numbers. So
    the rows are arranged by number, and the row of a number that is not used gets a centroid out of the reach of unit
    vectors. The model stays what scikit-learn made.
    """
    rows = max(numbers) + 1
    centroids = np.zeros((rows, model.cluster_centers_.shape[1]), dtype=model.cluster_centers_.dtype)
    centroids[:, 0] = OUT_OF_REACH
    centroids[numbers] = model.cluster_centers_
    model.labels_ = np.array(numbers, dtype=model.labels_.dtype)[model.labels_]
    model.cluster_centers_, model.n_clusters, model._n_threads = centroids, rows, 1
    model.init = "k-means++"  # was the start of the training, of another shape
    return model


# ------------------------------------------------------------------------------------------------------------ tell


def changes(summary: dict) -> list[dict]:
    """Tell what became of each cluster, in words, from what clusters.json holds; by number.

    Returns:
        For each cluster of the two models: cluster, about (its name or terms), what, size and before.
    """
    lineage, rows = summary["lineage"], []
    # A corpus that has grown makes no topic larger: sizes are compared with those of all clusters that continue.
    both = [cluster for cluster in summary["clusters"] if "continues" in cluster]
    growth_of_all = sum(cluster["size"] for cluster in both) / max(sum(c["continues"]["size"] for c in both), 1)
    for cluster in summary["clusters"]:
        number, continues = cluster["cluster"], cluster.get("continues")
        row = {"cluster": number, "about": about(cluster), "size": cluster["size"], "before": None}
        if continues:
            growth = cluster["size"] / max(continues["size"], 1) / growth_of_all
            word = "grew" if growth > SAME_SIZE else "shrank" if growth < 1 / SAME_SIZE else "stayed"
            kept = f"{word}, kept {continues['kept']:.0%}"
            parts = [listed("lost to", continues["lost"]), listed("gained from", continues["gained"])]
            row |= {"what": "; ".join([kept, *filter(None, parts)]), "before": continues["size"]}
        else:
            source, share = largest(lineage["new"].get(str(number), {}))
            split = share >= MAIN_PART and source not in lineage["gone"]
            row["what"] = f"new, split from {source} ({share:.0%} of it)" if split else "new"
        rows.append(row)
    for number, gone in lineage["gone"].items():
        target, share = largest(gone["to"])
        what = f"gone, merged into {target} ({share:.0%} of it)" if share >= MAIN_PART else "gone"
        rows.append({"cluster": int(number), "about": about(gone), "what": what, "size": None, "before": gone["size"]})
    return sorted(rows, key=lambda row: row["cluster"])


def about(cluster: dict) -> str:
    return cluster.get("name") or " ".join(term for term, _ in cluster["terms"][:3])


def listed(verb: str, shares: dict) -> str:
    main = [f"{number} ({share:.0%})" for number, share in list(shares.items())[:2] if share >= 0.05]
    return f"{verb} {', '.join(main)}" if main else ""


def largest(shares: dict) -> tuple[str | None, float]:
    return next(iter(shares.items()), (None, 0.0))


def log_changes(summary: dict):
    lineage = summary["lineage"]
    log.info(
        "Of %d documents that both models assign, %.1f %% keep the number that %s gave them",
        *(lineage["documents"], 100 * lineage["agreement"], lineage["earlier"]["version"]),
    )
    lines = [f"{'cluster':>7}  {'documents':>9}  {'before':>7}  {'about':30}  what became of it"]
    for row in changes(summary):
        size, before = (row[name] if row[name] is not None else "-" for name in ("size", "before"))
        lines.append(f"{row['cluster']:>7}  {size:>9}  {before:>7}  {row['about'][:30]:30}  {row['what']}")
    log.info("What became of the clusters:\n%s", "\n".join(lines))
