"""The page that tells a person what each cluster is about.

text_clustering.py --report writes it as report.html: one file that opens offline in any browser. The map is drawn by
Bokeh, whose browser part is a third of Plotly's; everything else is plain HTML, which a keyboard and a screen reader
understand and which keeps to the theme of the browser.
"""

import contextlib
import io
import logging
import re
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
from bokeh.embed import json_item
from bokeh.models import HoverTool, TapTool
from bokeh.plotting import figure
from bokeh.resources import Resources
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor
from threadpoolctl import threadpool_limits

from training.cluster_statistics import ClusterStatistics, Example
from training.lineage import changes

TEMPLATE = Path(__file__).with_name("page.html.j2")

MAP_DOCUMENTS = 20_000  # with titles of 60 characters, be they Chinese, they keep the page under 6 MB
MAP_TITLE = 60
TSNE_DOCUMENTS = 3_000  # t-SNE of 18,846 documents takes minutes on two cores
TSNE_ITERATIONS = 500
TSNE_NEIGHBOURS = 5
EXAMPLES = 3
EXCERPT = 140
HEAT_MAP_LABELS = 40

# Okabe and Ito, https://jfly.uni-koeln.de/color/, without yellow and black: one of them is lost on light or dark.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"]
MARKERS = {  # Bokeh's name: the same shape as an SVG path in a box of 16 x 16
    "circle": "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12z",
    "square": "M3 3h10v10h-10z",
    "triangle": "M8 2l7 12h-14z",
    "diamond": "M8 1l6 7l-6 7l-6-7z",
    "inverted_triangle": "M8 14l7-12h-14z",
    "hex": "M4.5 2h7l3.5 6l-3.5 6h-7l-3.5-6z",
}

METRICS = {
    "explained_variance": "the part of the TF-IDF weights' variance that the LSA dimensions keep",
    "homogeneity": "1 when every cluster holds documents of one label only",
    "completeness": "1 when all documents of a label are in one cluster",
    "v_measure": "the harmonic mean of homogeneity and completeness",
    "adjusted_rand_index": "pairs of documents that clusters and labels agree on; 0 is chance, 1 is perfect",
    "adjusted_mutual_information": "what the clusters tell about the labels; 0 is chance, 1 is perfect",
    "silhouette": "-1 to 1; above 0, documents are nearer to their own cluster than to the next one",
}

log = logging.getLogger("report")


def make_report(
    summary: dict,
    tally: ClusterStatistics,
    titles: list[str],
    model: KMeans,
    vectors: np.ndarray,
    silhouette_sample: int,
) -> str:
    """Make report.html.

    Args:
        summary: what clusters.json holds.
        tally: what all documents say of the clusters.
        titles: of the documents that the model was fitted on, which the map shows.
        vectors: what the transformer made of them: unit vectors of shape (documents, dimensions).
        silhouette_sample: the number of documents that the silhouette in the summary was measured on.
    """
    seed = summary["settings"]["seed"]
    shown = np.arange(len(vectors))
    if len(vectors) > MAP_DOCUMENTS:
        shown = np.sort(np.random.default_rng(seed).choice(shown, MAP_DOCUMENTS, replace=False))
    positions = lay_out(vectors[shown], seed)
    numbers = [cluster["cluster"] for cluster in summary["clusters"]]
    places = label_places(positions, model.labels_[shown], model.n_clusters)
    styles = dict(zip(numbers, choose_styles(places[numbers])))
    label_counts = tally.label_counts() if tally.labels else {}
    silhouettes = silhouette_per_cluster(model, vectors, silhouette_sample, seed)
    clusters = [
        {"name": None}
        | cluster
        | {
            "style": styles[number],
            "silhouette": silhouettes.get(number),
            "central": list(map(show, tally.central[number].best[:EXAMPLES])),
            "doubtful": list(map(show, tally.doubtful[number].best[:EXAMPLES])),
            "labels": labels_of(number, label_counts),
        }
        for number, cluster in zip(numbers, summary["clusters"])
    ]
    pages = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    pages.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return pages.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary=summary,
        clusters=clusters,
        heat_map=heat_map(label_counts, numbers),
        curve=curve(summary),
        changes=changes(summary) if summary.get("lineage") else [],
        metrics=METRICS,
        markers=MARKERS,
        documents_shown=len(shown),
        silhouette_sample=min(silhouette_sample, len(vectors)),
        bokeh="\n".join(Resources(mode="inline", components=["bokeh", "bokeh-gl"]).js_raw),
        map=json_item(draw_map(positions, places, clusters, [titles[i] for i in shown], model.labels_[shown])),
    )


# ----------------------------------------------------------------------------------------------------------- map


class TSNEProgress(io.TextIOBase):
    """Logs how far t-SNE is, which scikit-learn prints."""

    def write(self, text: str) -> int:
        if iteration := re.match(r"\[t-SNE\] Iteration (\d+)", text):
            log.info("t-SNE: %s of %d iterations", iteration[1], TSNE_ITERATIONS)
        return len(text)


def lay_out(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Lay documents out in the plane, neighbours beside each other: t-SNE of a sample, the others among it.

    Returns:
        Positions of shape (documents, 2).
    """
    if len(vectors) < 5 or vectors.shape[1] < 3:
        return np.pad(vectors, ((0, 0), (0, 2)))[:, :2]
    sample = np.random.default_rng(seed).permutation(len(vectors))[:TSNE_DOCUMENTS]
    log.info("Drawing a map of %d documents, %d of them by t-SNE", len(vectors), len(sample))
    perplexity = min(30, len(sample) // 4)
    tsne = TSNE(perplexity=perplexity, max_iter=TSNE_ITERATIONS, init="pca", random_state=seed, verbose=2)
    # Threads would meet after every step, and beside other work on the machine wait twenty times longer than they help.
    with contextlib.redirect_stdout(TSNEProgress()), threadpool_limits(1):
        positions = tsne.fit_transform(vectors[sample])
    neighbours = KNeighborsRegressor(min(TSNE_NEIGHBOURS, len(sample)), weights="distance")
    return neighbours.fit(vectors[sample], positions).predict(vectors)


def label_places(positions: np.ndarray, assigned: np.ndarray, clusters: int) -> np.ndarray:
    """Where each cluster's label goes: the middle of its densest part, of shape (clusters, 2); nan if it is empty."""
    places = np.full((clusters, 2), np.nan)
    for number in np.unique(assigned):
        members = positions[assigned == number]
        counts, edges = np.histogramdd(members, bins=8)
        densest = np.unravel_index(counts.argmax(), counts.shape)
        inside = [
            (edge[cell] <= column) & (column <= edge[cell + 1]) for edge, cell, column in zip(edges, densest, members.T)
        ]
        places[number] = members[np.logical_and(*inside)].mean(axis=0)
    return places


def choose_styles(places: np.ndarray) -> list[dict]:
    """A colour and a marker per cluster, such that clusters of one colour are far from each other on the map."""
    styles = []
    for place in places:
        distances = dict.fromkeys(COLOURS, np.inf)
        for other, style in enumerate(styles):
            distance = np.nan_to_num(np.linalg.norm(place - places[other]), nan=np.inf)
            distances[style["colour"]] = min(distances[style["colour"]], distance)
        colour = max(COLOURS, key=distances.get)
        used = sum(style["colour"] == colour for style in styles)
        styles.append({"colour": colour, "marker": list(MARKERS)[used % len(MARKERS)]})
    return styles


def draw_map(positions: np.ndarray, places: np.ndarray, clusters: list[dict], titles: list[str], assigned: np.ndarray):
    """Draw the map. The script in the page finds the parts of each cluster by their names and mutes the others'."""
    plot = figure(
        tools="pan,wheel_zoom,box_zoom,reset,tap",
        active_drag="pan",
        sizing_mode="stretch_both",
        x_axis_type=None,
        y_axis_type=None,
        output_backend="webgl",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        min_border=0,
    )
    plot.grid.visible = False
    plot.toolbar.logo = None
    plot.select_one(TapTool).visible = False
    dots = []
    for cluster in clusters:
        number = cluster["cluster"]
        members = np.flatnonzero(assigned == number)
        dots.append(
            plot.scatter(
                x="x",
                y="y",
                source={
                    "x": positions[members, 0].astype(np.float32),
                    "y": positions[members, 1].astype(np.float32),
                    "title": [clip(titles[i], MAP_TITLE) for i in members],
                },
                marker=cluster["style"]["marker"],
                color=cluster["style"]["colour"],
                size=5,
                fill_alpha=0.7,
                line_alpha=0,
                muted_color="#888888",
                muted_fill_alpha=0.12,
                muted_line_alpha=0,
                nonselection_fill_alpha=0.7,
                nonselection_line_alpha=0,
                name=f"cluster {number}",
            )
        )
    for cluster in clusters:
        number = cluster["cluster"]
        if not np.isnan(places[number]).any():
            plot.text(
                x="x",
                y="y",
                text="long",
                source={
                    "x": [places[number, 0]],
                    "y": [places[number, 1]],
                    "short": [str(number)],
                    "long": [
                        " ".join([str(number), cluster["name"] or next((term for term, _ in cluster["terms"]), "")])
                    ],
                },
                text_align="center",
                text_baseline="middle",
                text_font_size="12px",
                text_font_style="bold",
                text_color="white",
                background_fill_color="#1f2328",
                background_fill_alpha=0.85,
                border_radius=4,
                padding=3,
                name=f"label {number}",
            )
    plot.add_tools(HoverTool(renderers=dots, limit=3, visible=False, tooltips="<div>@title</div><i>$name</i>"))
    return plot


def clip(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


# ------------------------------------------------------------------------------------------------------ clusters


def show(example: Example) -> dict:
    """An example of a cluster as the page shows it."""
    return {
        "title": clip(example.title, EXCERPT),
        "excerpt": excerpt(example.text, example.title),
        "label": example.label,
        "similarity": example.similarity,
        "runner_up": example.runner_up,
        "runner_up_similarity": example.runner_up_similarity,
    }


def excerpt(document: str, title: str) -> str:
    """The beginning of a document, without the title that it may begin with."""
    text = document.lstrip()
    while title and text.startswith(title):
        text = text.removeprefix(title).lstrip()
    return clip(text[: 4 * EXCERPT], EXCERPT)


def silhouette_per_cluster(model: KMeans, vectors: np.ndarray, sample: int, seed: int) -> dict[int, float]:
    """The mean silhouette of each cluster, over the same sample that sklearn.metrics.silhouette_score draws."""
    sample = np.random.RandomState(seed).permutation(len(vectors))[:sample]
    assigned = model.labels_[sample]
    numbers = np.unique(assigned)
    if not 2 <= len(numbers) < len(sample):
        return {}
    silhouettes = metrics.silhouette_samples(vectors[sample], assigned)
    return {int(number): float(silhouettes[assigned == number].mean()) for number in numbers}


# -------------------------------------------------------------------------------------------------------- labels


def labels_of(number: int, counts: Counter) -> list[tuple[str, int]]:
    """How often each label occurs in a cluster, the most frequent one first."""
    mine = {label: count for (label, cluster), count in counts.items() if cluster == number}
    return sorted(mine.items(), key=lambda pair: (-pair[1], pair[0]))


def heat_map(label_counts: Counter, numbers: list[int]) -> dict | None:
    """Count documents by cluster and label.

    Labels stand in the order of the clusters that hold most of their documents: the better the clusters match the
    labels, the straighter the diagonal. The rare ones among very many labels share the last column.
    """
    if not label_counts:
        return None
    names = sorted({label for label, _ in label_counts})
    places = {name: place for place, name in enumerate(names)}
    counts = np.zeros((len(numbers), len(names)), dtype=int)
    for (label, cluster), count in label_counts.items():
        counts[numbers.index(cluster), places[label]] = count
    frequent = np.argsort(-counts.sum(axis=0), kind="stable")[:HEAT_MAP_LABELS]
    columns = frequent[np.lexsort((-counts.max(axis=0)[frequent], counts.argmax(axis=0)[frequent]))]
    titles, cells = [names[column] for column in columns], counts[:, columns]
    if len(names) > len(columns):
        titles.append(f"{len(names) - len(columns)} others")
        cells = np.column_stack([cells, counts.sum(axis=1) - cells.sum(axis=1)])
    return {"labels": titles, "counts": cells.tolist()}


# -------------------------------------------------------------------------------------------- number of clusters


def curve(summary: dict) -> list[dict]:
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
