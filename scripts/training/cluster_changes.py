"""Describe in words how the clusters of a model differ from those of the earlier model that it continues."""

import logging

from model.artefacts import about

MAIN_PART = 0.5  # of the documents of a cluster: what it was split from, or merged into
SAME_SIZE = 1.25
LISTED_SHARE = 0.05

log = logging.getLogger("text_clustering")


def cluster_changes(summary: dict) -> list[dict]:
    """Describe the change of each cluster, from the content of clusters.json; ordered by number.

    Returns:
        For each cluster of the two models: cluster, about (its name or terms), change, size and before (its size in the
        earlier model); a size is None in the model that lacks the cluster.
    """
    # A larger corpus does not make a topic larger: sizes are compared with those of all clusters that continue.
    both = [cluster for cluster in summary["clusters"] if "continues" in cluster]
    before = [cluster["continues"]["size"] for cluster in both]
    before += [summary["lineage"]["gone"][number]["size"] for number in summary["lineage"].get("merged", {})]
    growth_of_all = sum(cluster["size"] for cluster in both) / max(sum(before), 1)
    rows = [
        continued_cluster(cluster, growth_of_all)
        if "continues" in cluster
        else new_cluster(cluster, summary["lineage"])
        for cluster in summary["clusters"]
    ]
    rows += [gone_cluster(int(number), cluster) for number, cluster in summary["lineage"]["gone"].items()]
    return sorted(rows, key=lambda row: row["cluster"])


def continued_cluster(cluster: dict, growth_of_all: float) -> dict:
    continues = cluster["continues"]
    growth = cluster["size"] / max(continues["size"], 1) / growth_of_all
    word = "grew" if growth > SAME_SIZE else "shrank" if growth < 1 / SAME_SIZE else "stayed"
    parts = [list_shares("lost to", continues["lost"]), list_shares("gained from", continues["gained"])]
    return {
        "cluster": cluster["cluster"],
        "about": about(cluster),
        "change": "; ".join([f"{word}, kept {continues['kept']:.0%}", *filter(None, parts)]),
        "size": cluster["size"],
        "before": continues["size"],
    }


def new_cluster(cluster: dict, lineage: dict) -> dict:
    source, share = largest(lineage["new"].get(str(cluster["cluster"]), {}))
    is_split = share >= MAIN_PART and source not in lineage["gone"]
    return {
        "cluster": cluster["cluster"],
        "about": about(cluster),
        "change": f"new, split from {source} ({share:.0%} of it)" if is_split else "new",
        "size": cluster["size"],
        "before": None,
    }


def gone_cluster(number: int, cluster: dict) -> dict:
    target, share = largest(cluster["to"])
    return {
        "cluster": number,
        "about": about(cluster),
        "change": f"gone, merged into {target} ({share:.0%} of it)" if share >= MAIN_PART else "gone",
        "size": None,
        "before": cluster["size"],
    }


def list_shares(verb: str, shares: dict[str, float]) -> str:
    main = [f"{number} ({share:.0%})" for number, share in list(shares.items())[:2] if share >= LISTED_SHARE]
    return f"{verb} {', '.join(main)}" if main else ""


def largest(shares: dict[str, float]) -> tuple[str | None, float]:
    return next(iter(shares.items()), (None, 0.0))


def log_cluster_changes(summary: dict) -> None:
    lineage = summary["lineage"]
    log.info(
        "Of %d documents that both models assign, %.1f %% keep the number that %s gave them",
        *(lineage["documents"], 100 * lineage["agreement"], lineage["earlier"]["version"]),
    )
    if unassigned := lineage.get("unassigned"):
        log.warning(
            "%d further documents have no term of the earlier model's vocabulary: they had no part in matching the "
            "clusters, and it would not assign them",
            unassigned,
        )
    lines = [f"{'cluster':>7}  {'documents':>9}  {'before':>7}  {'about':30}  change"]
    for row in cluster_changes(summary):
        size, before = (row[name] if row[name] is not None else "-" for name in ("size", "before"))
        lines.append(f"{row['cluster']:>7}  {size:>9}  {before:>7}  {row['about'][:30]:30}  {row['change']}")
    log.info("Cluster changes:\n%s", "\n".join(lines))
