"""The report: a page that presents the clusters to a person.

text_clustering.py --report writes it as report.html: one file that opens offline in any browser. The map is drawn by
Bokeh, whose browser part is a third of the size of Plotly's; everything else is plain HTML, accessible by keyboard and
screen reader, in the browser's light or dark theme.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from bokeh.embed import json_item
from bokeh.resources import Resources
from sklearn import metrics
from sklearn.cluster import KMeans

from model.artefacts import METRIC_MEANINGS
from report.dendrogram import draw_dendrogram
from report.document_map import MARKERS, choose_styles, clip, draw_map, label_positions, lay_out
from report.timeline import topics_over_time
from training.cluster_changes import cluster_changes
from training.cluster_statistics import ClusterStatistics, Example
from training.scores import SILHOUETTE_SAMPLE

TEMPLATE = Path(__file__).with_name("page.html.j2")
LOOK = Path(__file__).parents[2] / "serving/ui/look.css"  # shared with the page of the service

MAP_DOCUMENTS = 20_000  # with titles of 60 characters, even Chinese ones, the page stays under 6 MB
EXAMPLES = 3
EXCERPT = 140
HEAT_MAP_LABELS = 40


def render_report(
    summary: dict[str, Any],
    statistics: ClusterStatistics,
    titles: list[str],
    model: KMeans,
    vectors: np.ndarray,
    silhouette_sample: int = SILHOUETTE_SAMPLE,
) -> str:
    """Render report.html.

    Args:
        summary: the content of clusters.json.
        statistics: of all documents.
        titles: of the documents that the model was fitted on, which the map shows.
        vectors: of the same documents, unit rows of shape (documents, dimensions).
        silhouette_sample: the number of documents on which the silhouette in the summary was measured.
    """
    seed = summary["settings"]["seed"]
    shown = choose_shown(len(vectors), seed)
    positions, assigned = lay_out(vectors[shown], seed), model.labels_[shown]
    labels = label_positions(positions, assigned, model.n_clusters)
    numbers = [cluster["cluster"] for cluster in summary["clusters"]]
    label_counts = statistics.label_counts() if statistics.labels else Counter()
    silhouettes = silhouette_per_cluster(model, vectors, silhouette_sample, seed)
    clusters = [
        present(cluster, style, silhouettes, statistics, label_counts)
        for cluster, style in zip(summary["clusters"], choose_styles(labels[numbers]))
    ]
    return template().render(
        summary=summary,
        clusters=clusters,
        by_number={cluster["cluster"]: cluster for cluster in clusters},
        heat_map=heat_map(label_counts, numbers),
        curve=curve(summary),
        tree=draw_dendrogram(model.cluster_centers_[numbers], numbers),
        timeline=topics_over_time(statistics.by_day, numbers),
        changes=cluster_changes(summary) if summary.get("lineage") else [],
        metrics=METRIC_MEANINGS,
        look=LOOK.read_text(encoding="utf-8"),
        markers=MARKERS,
        documents_shown=len(shown),
        silhouette_sample=min(silhouette_sample, len(vectors)),
        bokeh="\n".join(Resources(mode="inline", components=["bokeh", "bokeh-gl"]).js_raw),
        map=json_item(draw_map(positions, labels, clusters, [titles[i] for i in shown], assigned)),
    )


def present(
    cluster: dict[str, Any],
    style: dict[str, str],
    silhouettes: dict[int, float],
    statistics: ClusterStatistics,
    label_counts: Counter[tuple[str, int]],
) -> dict[str, Any]:
    """A cluster of clusters.json with all that the page shows of it."""
    number = cluster["cluster"]
    return {
        "name": None,
        "style": style,
        "silhouette": silhouettes.get(number),
        **cluster,
        **examples_of(number, statistics),
        "labels": labels_of(number, label_counts),
    }


def choose_shown(documents: int, seed: int) -> np.ndarray:
    """Choose the documents that the map shows; returns their indices."""
    if documents <= MAP_DOCUMENTS:
        return np.arange(documents)
    return np.sort(np.random.default_rng(seed).choice(documents, MAP_DOCUMENTS, replace=False))


def template() -> jinja2.Template:
    pages = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    pages.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return pages.from_string(TEMPLATE.read_text(encoding="utf-8"))


def examples_of(number: int, statistics: ClusterStatistics) -> dict[str, list[dict[str, Any]]]:
    """The central and the borderline documents of a cluster, as the page shows them."""
    kinds = {"central": statistics.central[number], "borderline": statistics.borderline[number]}
    return {kind: [show(example) for example in examples.best[:EXAMPLES]] for kind, examples in kinds.items()}


def show(example: Example) -> dict[str, Any]:
    return {
        "title": clip(example.title, EXCERPT),
        "excerpt": excerpt(example.text, example.title),
        "label": example.label,
        "similarity": example.similarity,
        "runner_up": example.runner_up,
        "runner_up_similarity": example.runner_up_similarity,
    }


def excerpt(document: str, title: str) -> str:
    """The beginning of a document, without the title if it begins with that."""
    text = document.lstrip()
    while title and text.startswith(title):
        text = text.removeprefix(title).lstrip()
    return clip(text[: 4 * EXCERPT], EXCERPT)


def silhouette_per_cluster(model: KMeans, vectors: np.ndarray, sample_size: int, seed: int) -> dict[int, float]:
    """The mean silhouette of each cluster, over the same sample that sklearn.metrics.silhouette_score draws."""
    sample = np.random.RandomState(seed).permutation(len(vectors))[:sample_size]
    assigned = model.labels_[sample]
    numbers = np.unique(assigned)
    if not 2 <= len(numbers) < len(sample):
        return {}
    silhouettes = metrics.silhouette_samples(vectors[sample], assigned)
    return {int(number): float(silhouettes[assigned == number].mean()) for number in numbers}


def labels_of(number: int, counts: Counter[tuple[str, int]]) -> list[tuple[str, int]]:
    """The labels in a cluster and their numbers of documents, the most frequent first."""
    own = {label: count for (label, cluster), count in counts.items() if cluster == number}
    return sorted(own.items(), key=lambda pair: (-pair[1], pair[0]))


def heat_map(label_counts: Counter[tuple[str, int]], numbers: list[int]) -> dict[str, list] | None:
    """Count documents by cluster and label.

    Labels are ordered like the clusters that contain most of their documents: the better the clusters match the labels,
    the straighter the diagonal. Rare labels share the last column.
    """
    if not label_counts:
        return None
    names = sorted({label for label, _ in label_counts})
    columns_of = {name: column for column, name in enumerate(names)}
    counts = np.zeros((len(numbers), len(names)), dtype=int)
    for (label, cluster), count in label_counts.items():
        counts[numbers.index(cluster), columns_of[label]] = count
    frequent = np.argsort(-counts.sum(axis=0), kind="stable")[:HEAT_MAP_LABELS]
    columns = frequent[np.lexsort((-counts.max(axis=0)[frequent], counts.argmax(axis=0)[frequent]))]
    titles, cells = [names[column] for column in columns], counts[:, columns]
    if len(names) > len(columns):
        titles.append(f"{len(names) - len(columns)} others")
        cells = np.column_stack([cells, counts.sum(axis=1) - cells.sum(axis=1)])
    return {"labels": titles, "counts": cells.tolist()}


def curve(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The points of the curve by which the number of clusters was chosen, in a box of 640 x 240."""
    agreement = {int(number): value for number, value in summary.get("agreement_of_halves", {}).items()}
    highest = max([*agreement.values(), 0.01])
    return [
        {
            "number": number,
            "agreement": value,
            "chosen": number == summary["settings"]["clusters"],
            "x": round(30 + 580 * place / max(len(agreement) - 1, 1)),
            "y": round(210 - 180 * max(value, 0) / highest),
        }
        for place, (number, value) in enumerate(agreement.items())
    ]
