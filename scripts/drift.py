#!/usr/bin/env python
"""Compare live traffic with the training data of each served model version (drift).

    python ./scripts/drift.py [--prometheus http://localhost:30400]

For each version, prints the firing alerts, the clusters whose share changed most and the similarity over the last hour,
as recorded in Prometheus by the rules of provision/prometheus/drift.yml. The output contains no text of a user.
PROMETHEUS_USER and PROMETHEUS_PASSWORD in the environment are the login of a Prometheus that requires one.

Exit status: 0 printed, 1 Prometheus does not respond or has no data of a service, 2 invalid arguments.
"""

import argparse
import logging
import math
import time
from collections import defaultdict
from typing import NamedTuple

from command_line import HelpFormatter, positive_int
from failure import Failure, report_errors
from prometheus import Prometheus, Version, add_prometheus_option, selector

log = logging.getLogger("drift.py")

WINDOWS = {"1h": "last hour", "3m": "last 3 min"}
BARS = "▁▂▃▄▅▆▇█"
STEP_SECONDS = 120


class Cluster(NamedTuple):
    """A cluster; the fields are labels of its share in the training."""

    cluster: str
    about: str


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], formatter_class=HelpFormatter)
    add_prometheus_option(parser)
    parser.add_argument(
        "--clusters", type=positive_int, default=10, metavar="N", help="print the N clusters that changed most"
    )
    arguments = parser.parse_args()
    logging.basicConfig(format="%(name)s: %(message)s")
    with report_errors(log, "nothing was changed"):
        print_drift(Prometheus(arguments.prometheus), arguments.clusters)


def print_drift(prometheus: Prometheus, cluster_limit: int) -> None:
    """Print every version that has metrics in Prometheus."""
    shares = trained_shares(prometheus)
    if not shares:
        raise Failure(
            f"Prometheus at {prometheus.url} has no metrics of a service with a model of this project: deploy one "
            "(scripts/deploy_service.py), or check what it scrapes on its page /targets."
        )
    for version in sorted(shares):
        documents = live_documents(prometheus, version)
        print_version(prometheus, version, documents)
        print()
        print_clusters(shares[version], documents, cluster_limit)
        print()


# -------------------------------------------------------------------------------------------------------- Output


def print_version(prometheus: Prometheus, version: Version, documents: dict[str, dict[str, float]]) -> None:
    """Print the alerts, the key figures and the similarity over the last hour of one version."""
    totals = {window: sum(counts.values()) for window, counts in documents.items()}
    index, limit, similarity = (
        prometheus.by_window(f"textclustering:{name}", version)
        for name in ("stability_index", "stability_index_by_chance", "similarity")
    )
    trained = {
        labels["quantile"]: value
        for labels, value in prometheus.query(selector("textclustering_trained_similarity", version, cluster=""))
    }
    print(f"{version.model_name} {version.version}" + (f" in {version.namespace}" if version.namespace else ""))
    for alert in prometheus.firing_alerts(version):
        print(f"  ALERT {alert['labels']['alertname']}, since {alert['activeAt'][11:16]} UTC: "
              f"{alert['annotations']['description']}")  # fmt: skip
    print_row("", "training", *WINDOWS.values())
    print_row("documents", "", *(f"{totals[window]:,.0f}" for window in WINDOWS))
    print_row("stability index", "", *(figure(index.get(window), ".3f") for window in WINDOWS))
    print_row("  limit of sampling noise", "", *(figure(limit.get(window), ".3f") for window in WINDOWS))
    print_row("median similarity", figure(trained.get("0.5"), ".3f"),
              *(figure(similarity.get(window), ".3f") for window in WINDOWS))  # fmt: skip
    print_rejected(prometheus, version, totals)
    print_similarity(similarity_of_last_hour(prometheus, version), trained)


def print_rejected(prometheus: "Prometheus", version: Version, totals: dict[str, float]) -> None:
    """Print the share of texts that --min-similarity rejects; nothing without this option.

    Args:
        totals: documents by window.
    """
    if rejected := prometheus.by_window("textclustering:rejected", version):
        trained = prometheus.query(selector("textclustering_trained_rejected_share", version))
        shares = (rejected.get(window, 0) / totals[window] if totals[window] else None for window in WINDOWS)
        print_row(
            "rejected by --min-similarity",
            figure(trained[0][1] if trained else None, ".1%"),
            *(figure(share, ".1%") for share in shares),
        )


def print_clusters(shares: dict[Cluster, float], documents: dict[str, dict[str, float]], limit: int) -> None:
    """Print the clusters whose share differs most from the training, in the shortest window with documents."""
    totals = {window: sum(documents[window].values()) for window in WINDOWS}
    latest = next((window for window in ("3m", "1h") if totals[window]), None)

    def live_share(window: str, cluster: str) -> float | None:
        return documents[window].get(cluster, 0) / totals[window] if totals[window] else None

    def change(cluster: Cluster) -> float:
        live = live_share(latest, cluster.cluster) if latest else None
        return 0.0 if live is None else live - shares[cluster]

    changes = sorted(((change(cluster), cluster) for cluster in shares), key=lambda item: -abs(item[0]))
    for difference, cluster in changes[:limit]:
        live = (figure(live_share(window, cluster.cluster), ".1%") for window in WINDOWS)
        points = f"{100 * difference:+.1f}" if latest else ""
        print_row(f"{cluster.cluster:>4} {cluster.about}", figure(shares[cluster], ".1%"), *live, points)
    if changes[limit:]:
        print(f"     {len(changes) - limit} more changed by {100 * abs(changes[limit][0]):.1f} points or less")


def print_similarity(points: list[float | None], trained: dict[str, float]) -> None:
    """Print the similarity over the last hour as bars, scaled from the 5 % to the 95 % quantile of the training."""
    if not any(points) or not trained:
        return
    low, high = trained["0.05"], trained["0.95"]
    heights = [None if p is None else min(max((p - low) / (high - low or 1), 0), 0.999) for p in points]
    bars = "".join(" " if height is None else BARS[int(height * len(BARS))] for height in heights)
    print(f"  median similarity over the last hour, from {low:.2f} (▁) to {high:.2f} (█): {bars}")


def print_row(title: str, *columns: str) -> None:
    print((f"  {title[:34]:34}" + "".join(f"{column:>12}" for column in columns)).rstrip())


def figure(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


# ------------------------------------------------------------------------------------------------------- Metrics


def trained_shares(prometheus: Prometheus) -> dict[Version, dict[Cluster, float]]:
    """Return the share of each cluster in the training, for every version; all pods of a version report the same."""
    shares: dict[Version, dict[Cluster, float]] = defaultdict(dict)
    for labels, share in prometheus.query("textclustering_trained_share"):
        version = Version(*(labels.get(name, "") for name in Version._fields))
        shares[version][Cluster(*(labels.get(name, "") for name in Cluster._fields))] = share
    return shares


def live_documents(prometheus: Prometheus, version: Version) -> dict[str, dict[str, float]]:
    """Return the number of documents by window and cluster number."""
    documents: dict[str, dict[str, float]] = {window: {} for window in WINDOWS}
    for labels, count in prometheus.query(selector("textclustering:documents", version)):
        documents[labels["window"]][labels["cluster"]] = count
    return documents


def similarity_of_last_hour(prometheus: Prometheus, version: Version) -> list[float | None]:
    """Return the median similarity every two minutes, oldest first; None where there were no requests."""
    end = time.time() // STEP_SECONDS * STEP_SECONDS
    times = [end - STEP_SECONDS * n for n in range(3_600 // STEP_SECONDS, -1, -1)]
    query = selector("textclustering:similarity", version, window="3m")
    series = prometheus.get("query_range", query=query, start=times[0], end=times[-1], step=STEP_SECONDS)["result"]
    values = {moment: float(value) for moment, value in (series[0]["values"] if series else [])}
    return [value if (value := values.get(moment)) is not None and math.isfinite(value) else None for moment in times]


if __name__ == "__main__":
    main()
