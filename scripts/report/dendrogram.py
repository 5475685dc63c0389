"""The dendrogram of the report, which shows which clusters are about related subjects."""

from typing import Any, NamedTuple

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from model.projection import unit_rows

ROW = 24  # height of a leaf, in CSS pixels
WIDTH = 100  # of the box, which the page stretches


class Node(NamedTuple):
    """A cluster, or the branch that joins two nodes."""

    clusters: list[int]  # numbers, in the order of the leaves
    x: float
    y: float


def draw_dendrogram(centroids: np.ndarray, numbers: list[int]) -> dict[str, Any] | None:
    """Join clusters by average linkage on the cosine distances of their centroids; None for fewer than three clusters.

    Args:
        centroids: shape (clusters, dimensions).
        numbers: of the clusters.

    Returns:
        leaves: the numbers of the clusters, from top to bottom; height: of the box, WIDTH wide; branches: for each, the
        clusters that it joins, the cosine distance, and the path of its line, the closest first.
    """
    if len(numbers) < 3:
        return None
    unit = unit_rows(centroids)
    linkage = hierarchy.linkage(squareform((1 - unit @ unit.T).clip(0), checks=False), "average")
    leaves = hierarchy.leaves_list(linkage).tolist()
    closest, farthest = linkage[0, 2], linkage[-1, 2]
    left = max(0, closest - (farthest - closest) / 4)  # of the box; at 0 there would be little room for the joins
    scale = WIDTH / max(farthest - left, 1e-9)
    nodes = {leaf: Node([numbers[leaf]], 0, ROW * (place + 0.5)) for place, leaf in enumerate(leaves)}
    branches = []
    for step, (one, other, distance, _) in enumerate(linkage.tolist()):
        upper, lower = sorted((nodes[int(one)], nodes[int(other)]), key=lambda node: node.y)
        x = round(scale * (distance - left), 2)
        nodes[len(numbers) + step] = joined = Node(upper.clusters + lower.clusters, x, (upper.y + lower.y) / 2)
        line = f"M{upper.x} {upper.y}H{x}V{lower.y}H{lower.x}"
        branches.append({"clusters": joined.clusters, "distance": distance, "line": line})
    return {"leaves": [numbers[leaf] for leaf in leaves], "height": ROW * len(leaves), "branches": branches}
