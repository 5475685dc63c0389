"""The map of the report: documents in the plane, similar ones close together, coloured by cluster."""

import contextlib
import io
import logging
import re
from typing import Any

import numpy as np
from bokeh.models import HoverTool, TapTool
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsRegressor
from threadpoolctl import threadpool_limits

MAP_TITLE = 60
TSNE_DOCUMENTS = 3_000  # t-SNE of 18,846 documents takes minutes on two cores
TSNE_ITERATIONS = 500
TSNE_NEIGHBOURS = 5

# Okabe and Ito, https://jfly.uni-koeln.de/color/, without yellow and black: each is hard to see on light or dark.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"]
MARKERS = {  # Bokeh's name: the same shape as an SVG path in a box of 16 x 16
    "circle": "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12z",
    "square": "M3 3h10v10h-10z",
    "triangle": "M8 2l7 12h-14z",
    "diamond": "M8 1l6 7l-6 7l-6-7z",
    "inverted_triangle": "M8 14l7-12h-14z",
    "hex": "M4.5 2h7l3.5 6l-3.5 6h-7l-3.5-6z",
}

log = logging.getLogger("report")


class TSNEProgress(io.TextIOBase):
    """Logs the iterations that scikit-learn's t-SNE prints."""

    def write(self, text: str) -> int:
        if iteration := re.match(r"\[t-SNE\] Iteration (\d+)", text):
            log.info("t-SNE: %s of %d iterations", iteration[1], TSNE_ITERATIONS)
        return len(text)


def lay_out(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Place documents in the plane: a sample by t-SNE, the others between their nearest neighbours in the sample.

    Args:
        vectors: unit rows of shape (documents, dimensions).

    Returns:
        Positions of shape (documents, 2).
    """
    if len(vectors) < 5 or vectors.shape[1] < 3:
        return np.pad(vectors, ((0, 0), (0, 2)))[:, :2]
    sample = np.random.default_rng(seed).permutation(len(vectors))[:TSNE_DOCUMENTS]
    log.info("Drawing a map of %d documents, %d of them by t-SNE", len(vectors), len(sample))
    perplexity = min(30, len(sample) // 4)
    tsne = TSNE(perplexity=perplexity, max_iter=TSNE_ITERATIONS, init="pca", random_state=seed, verbose=2)
    # Threads synchronise after every step: beside other work on the machine they wait twenty times longer than they help.
    with contextlib.redirect_stdout(TSNEProgress()), threadpool_limits(1):
        positions = tsne.fit_transform(vectors[sample])
    neighbours = KNeighborsRegressor(min(TSNE_NEIGHBOURS, len(sample)), weights="distance")
    return neighbours.fit(vectors[sample], positions).predict(vectors)


def label_positions(positions: np.ndarray, assigned: np.ndarray, rows: int) -> np.ndarray:
    """The centre of the densest part of each cluster.

    Args:
        assigned: the cluster number of each document.
        rows: the largest cluster number, plus 1.

    Returns:
        Positions of shape (rows, 2); nan for a cluster without documents.
    """
    centres = np.full((rows, 2), np.nan)
    for number in np.unique(assigned):
        members = positions[assigned == number]
        counts, edges = np.histogramdd(members, bins=8)
        densest = np.unravel_index(counts.argmax(), counts.shape)
        inside = [
            (edge[cell] <= column) & (column <= edge[cell + 1]) for edge, cell, column in zip(edges, densest, members.T)
        ]
        centres[number] = members[np.logical_and(*inside)].mean(axis=0)
    return centres


def choose_styles(positions: np.ndarray) -> list[dict[str, str]]:
    """Choose a colour and a marker per cluster, such that clusters of one colour are far apart on the map.

    Args:
        positions: of the labels of the clusters, shape (clusters, 2).
    """
    styles: list[dict[str, str]] = []
    for position in positions:
        distances = dict.fromkeys(COLOURS, np.inf)
        for other, style in enumerate(styles):
            distance = float(np.nan_to_num(np.linalg.norm(position - positions[other]), nan=np.inf))
            distances[style["colour"]] = min(distances[style["colour"]], distance)
        colour = max(COLOURS, key=lambda colour: distances[colour])
        used = sum(style["colour"] == colour for style in styles)
        styles.append({"colour": colour, "marker": list(MARKERS)[used % len(MARKERS)]})
    return styles


def draw_map(
    positions: np.ndarray, labels: np.ndarray, clusters: list[dict[str, Any]], titles: list[str], assigned: np.ndarray
) -> figure:
    """Draw the map. The page's script finds the dots and the label of each cluster, and the found documents, by their names.

    Args:
        positions: of the documents, shape (documents, 2).
        labels: positions of the labels by cluster number, shape (rows, 2).
        clusters: of clusters.json, with their style.
        assigned: the cluster number of each document.
    """
    plot = empty_plot()
    dots = [
        draw_dots(plot, cluster, positions[members], [titles[i] for i in members])
        for cluster in clusters
        for members in [np.flatnonzero(assigned == cluster["cluster"])]
    ]
    for cluster in clusters:
        if not np.isnan(labels[cluster["cluster"]]).any():
            draw_label(plot, cluster, labels[cluster["cluster"]])
    found = draw_found(plot)
    plot.add_tools(
        HoverTool(renderers=[*dots, found], limit=3, visible=False, tooltips="<div>@title</div><i>$name</i>")
    )
    return plot


def empty_plot() -> figure:
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
    for tool in plot.tools:
        if isinstance(tool, TapTool):
            tool.visible = False
    return plot


def draw_dots(plot: figure, cluster: dict[str, Any], positions: np.ndarray, titles: list[str]) -> DataRenderer:
    return plot.scatter(
        x="x",
        y="y",
        source={
            "x": positions[:, 0].astype(np.float32),
            "y": positions[:, 1].astype(np.float32),
            "title": [clip(title, MAP_TITLE) for title in titles],
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
        name=f"cluster {cluster['cluster']}",
    )


def draw_found(plot: figure) -> DataRenderer:
    """The documents that the search has found, which the page's script adds."""
    return plot.scatter(
        x="x",
        y="y",
        source={"x": [], "y": [], "title": [], "colour": []},
        color="colour",
        line_color="#ffffff",
        line_width=1,
        size=10,
        nonselection_fill_alpha=1,
        nonselection_line_alpha=1,
        name="found",
    )


def draw_label(plot: figure, cluster: dict[str, Any], position: np.ndarray) -> None:
    number = str(cluster["cluster"])
    topic = cluster["name"] or next((term for term, _ in cluster["terms"]), "")
    # Missing from Bokeh's type stubs.
    box: dict[str, Any] = {"background_fill_color": "#1f2328", "background_fill_alpha": 0.85, "border_radius": 4}
    box["padding"] = 3
    plot.text(
        x="x",
        y="y",
        text="long",
        source={"x": [position[0]], "y": [position[1]], "short": [number], "long": [f"{number} {topic}"]},
        text_align="center",
        text_baseline="middle",
        text_font_size="12px",
        text_font_style="bold",
        text_color="white",
        **box,
        name=f"label {number}",
    )


def clip(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
