#!/usr/bin/env python
"""Show what the services are asked now beside what their models were trained on.

    python ./scripts/drift.py [--prometheus http://localhost:30400]

For each version that serves: the alerts that are on, which clusters grow and which shrink, and the similarity over the
last hour, as Prometheus knows them by the rules in provision/prometheus/drift.yml. Nothing here was written by a user.

Exit status: 0 shown, 1 Prometheus does not answer or knows no service, 2 bad input.
"""

import argparse
import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict

from command_line import HelpFormatter, positive_int
from failure import Failure, report_errors

WINDOWS = {"1h": "last hour", "3m": "last 3 min"}
BARS = "▁▂▃▄▅▆▇█"
STEP_SECONDS = 120

log = logging.getLogger("drift.py")

# Prometheus is on this machine or in this network: a proxy for the internet is not the way to it.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PrometheusError(Failure):
    """Prometheus cannot be asked; the message is one line that says why, and what to do."""


def main() -> None:
    logging.basicConfig(format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=HelpFormatter)
    parser.add_argument("--prometheus", default="http://localhost:30400", metavar="URL", help="where Prometheus is")
    parser.add_argument("--clusters", type=positive_int, default=10, metavar="N", help="show the N that changed most")
    arguments = parser.parse_args()
    if not arguments.prometheus.startswith(("http://", "https://")):
        parser.error(f"--prometheus is {arguments.prometheus}: expected a URL such as http://localhost:30400")
    with report_errors(log, "nothing was changed"):
        trained = by_version(arguments.prometheus, "textclustering_trained_share", "cluster", "about")
        if not trained:
            raise PrometheusError(
                f"Prometheus at {arguments.prometheus} knows of no service with a model of this project: deploy one "
                "(scripts/deploy_service.py), or look at its page /targets for what it reads."
            )
        for version in sorted(trained):
            show_version(arguments, version, trained[version])


def show_version(arguments: argparse.Namespace, version: tuple, trained: dict):
    """Print one version: its alerts, its key figures and its clusters.

    Args:
        version: namespace, model name, version.
        trained: share of each cluster in the training, by cluster number and what it is about.
    """
    of = dict(zip(("namespace", "model_name", "version"), version))
    figures = {
        name: windows(ask_version(arguments.prometheus, of, f"textclustering:{name}"))
        for name in ("stability_index", "stability_index_by_chance", "similarity")
    }
    documents = defaultdict(dict)
    for labels, count in ask_version(arguments.prometheus, of, "textclustering:documents"):
        documents[labels["window"]][labels["cluster"]] = count
    total = {window: sum(documents[window].values()) for window in WINDOWS}
    normal = {
        labels["quantile"]: value
        for labels, value in ask_version(arguments.prometheus, of, "textclustering_trained_similarity", cluster="")
    }

    namespace, name, number = version
    print(f"{name} {number}" + (f" in {namespace}" if namespace else ""))
    for alert in alerts(arguments.prometheus, of):
        print(f"  ALERT {alert['labels']['alertname']}, since {alert['activeAt'][11:16]} UTC: "
              f"{alert['annotations']['description']}")  # fmt: skip
    row("", "training", *WINDOWS.values())
    row("documents", "", *(f"{total[window]:,.0f}" for window in WINDOWS))
    row("stability index", "", *(figure(figures["stability_index"].get(window), "{:.3f}") for window in WINDOWS))
    row("  by chance, at most", "",
        *(figure(figures["stability_index_by_chance"].get(window), "{:.3f}") for window in WINDOWS))  # fmt: skip
    row("median similarity", figure(normal.get("0.5"), "{:.3f}"),
        *(figure(figures["similarity"].get(window), "{:.3f}") for window in WINDOWS))  # fmt: skip
    show_similarity(similarity_of_last_hour(arguments.prometheus, of), normal)
    print()
    show_clusters(arguments.clusters, trained, documents, total)
    print()


def show_clusters(limit: int, trained: dict, documents: dict, total: dict):
    """Print the clusters whose shares differ most from the training, in the shortest window that has documents."""
    latest = next((window for window in ("3m", "1h") if total[window]), None)

    def share(window: str, cluster: str) -> float | None:
        return documents[window].get(cluster, 0) / total[window] if total[window] else None

    def change(cluster: str, share_trained: float) -> float:
        return share(latest, cluster) - share_trained if latest else 0

    changes = sorted(
        ((change(cluster, value), cluster, about, value) for (cluster, about), value in trained.items()),
        key=lambda item: -abs(item[0]),
    )
    for difference, cluster, about, value in changes[:limit]:
        shares = (figure(share(window, cluster), "{:.1%}") for window in WINDOWS)
        row(f"{cluster:>4} {about}", f"{value:.1%}", *shares, f"{100 * difference:+.1f}" if latest else "")
    if changes[limit:]:
        print(f"     {len(changes) - limit} more changed by {100 * abs(changes[limit][0]):.1f} points or less")


def show_similarity(points: list[float | None], normal: dict):
    """Print the similarity of the last hour as bars, from the lowest to the highest twentieth of the training."""
    if not any(points) or not normal:
        return
    low, high = normal["0.05"], normal["0.95"]
    heights = [None if p is None else min(max((p - low) / (high - low or 1), 0), 0.999) for p in points]
    bars = "".join(" " if height is None else BARS[int(height * len(BARS))] for height in heights)
    print(f"  median similarity over the last hour, from {low:.2f} (▁) to {high:.2f} (█): {bars}")


def row(what: str, *columns: str):
    print((f"  {what[:34]:34}" + "".join(f"{column:>12}" for column in columns)).rstrip())


def figure(value: float | None, form: str) -> str:
    return "-" if value is None or value != value else form.format(value)


# ---------------------------------------------------------------------------------------------------- Prometheus


def ask(prometheus: str, path: str, **parameters) -> dict:
    """Ask Prometheus' HTTP API; returns what it calls data.

    Raises:
        PrometheusError: it does not answer, or is none.
    """
    url = f"{prometheus.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with opener.open(url, timeout=10) as response:
            return json.load(response)["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrometheusError(
            f"Prometheus does not answer at {prometheus} ({error}): is the platform up (provision/all.sh), "
            "and is this its port (PORT_PROMETHEUS)?"
        ) from error


def samples(prometheus: str, query: str) -> list[tuple[dict, float]]:
    """The labels and values that a query has now; values that are none are left out."""
    answer = ask(prometheus, "query", query=query)["result"]
    return [(sample["metric"], float(sample["value"][1])) for sample in answer]


def by_version(prometheus: str, metric: str, *labels: str) -> dict:
    """Values by version (namespace, model name, version), then by the labels that are named; of several pods, one."""
    found = defaultdict(dict)
    for sample, value in samples(prometheus, metric):
        version = tuple(sample.get(label, "") for label in ("namespace", "model_name", "version"))
        found[version][tuple(sample.get(label, "") for label in labels)] = value
    return found


def ask_version(prometheus: str, of: dict, metric: str, **labels) -> list[tuple[dict, float]]:
    return samples(prometheus, selector(metric, of | labels))


def selector(metric: str, labels: dict) -> str:
    return metric + "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items()) + "}"


def windows(found: list[tuple[dict, float]]) -> dict:
    return {labels["window"]: value for labels, value in found}


def alerts(prometheus: str, of: dict) -> list[dict]:
    """The alerts that are on for a version."""
    return [
        alert
        for alert in ask(prometheus, "alerts")["alerts"]
        if alert["state"] == "firing"
        and all(alert["labels"].get(label, "") == of[label] for label in ("namespace", "version"))
    ]


def similarity_of_last_hour(prometheus: str, of: dict) -> list[float | None]:
    """The median similarity every two minutes, oldest first; None where nothing was asked."""
    end = time.time() // STEP_SECONDS * STEP_SECONDS
    times = [end - STEP_SECONDS * n for n in range(3_600 // STEP_SECONDS, -1, -1)]
    query = selector("textclustering:similarity", of | {"window": "3m"})
    answer = ask(prometheus, "query_range", query=query, start=times[0], end=times[-1], step=STEP_SECONDS)["result"]
    values = {moment: float(value) for moment, value in (answer[0]["values"] if answer else [])}
    return [value if (value := values.get(moment)) is not None and value == value else None for moment in times]


if __name__ == "__main__":
    main()
