"""Metrics for Prometheus, beside KServe's own: live traffic, and the baseline of the model.

The rules in provision/prometheus/drift.yml compare the two. No metric contains a word of a request.
"""

from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import numpy as np
import prometheus_client
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from model.artefacts import Summary, about
from model.clusters import NO_CLUSTER, Clusters
from serving.predictor import KINDS

MODEL = ["model_name", "version"]
RECENT_TEXTS = 1_000
# Prometheus takes a quantile beyond the last bound for that bound, and similarities of good models are above 0.95.
BUCKETS = [0.1, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0]
READY = prometheus_client.Gauge("textclustering_ready", "1 if the model should get requests, else 0", MODEL)
BYPASSED = prometheus_client.Counter(
    "textclustering_predictor_bypassed",
    "Requests that were answered from the centroids because the predictor failed, by reason",
    [*MODEL, "reason"],
)
TRAINED_SHARE = prometheus_client.Gauge(
    "textclustering_trained_share",
    "Share of each cluster in the training documents, -1: no in-vocabulary term",
    [*MODEL, "cluster", "about"],
)
TRAINED_SIMILARITY = prometheus_client.Gauge(
    "textclustering_trained_similarity",
    "Quantiles of the similarity in the training, of each cluster and, without a cluster, of all",
    [*MODEL, "cluster", "quantile"],
)
TRAINED_DOCUMENTS = prometheus_client.Gauge(
    "textclustering_trained_documents", "Documents that the shares of the training are of", MODEL
)
TRAINED_REJECTED = prometheus_client.Gauge(
    "textclustering_trained_rejected_share",
    "Share of the training documents that this --min-similarity would reject",
    [*MODEL, "min_similarity"],
)
prometheus_client.disable_created_metrics()  # would double the number of lines


class Metrics(Collector):
    """The metrics of one model.

    Documents and similarities are counted here and not by prometheus_client, whose locks and labels take 5 µs per
    document.

    Args:
        clusters: None if nothing describes them; then there are no similarities.
        summary: the content of clusters.json; None: there is no baseline.
        min_similarity: documents that are less similar to their nearest cluster are rejected; None: there are none.
    """

    def __init__(
        self,
        model_name: str,
        version: str,
        clusters: Clusters | None,
        summary: Summary | None,
        min_similarity: float | None = None,
    ) -> None:
        self.model = (model_name, version)
        self.min_similarity = min_similarity
        self.documents: Counter[int] = Counter()
        self.rejected: Counter[int] = Counter()
        self.histograms: dict[int, list[int]] = {}
        self.sums: defaultdict[int, float] = defaultdict(float)
        self.distinct = 0
        self.recent: OrderedDict[int, None] = OrderedDict()
        if clusters and summary:
            show_baseline(self.model, summary)
            if min_similarity:
                show_trained_rejections(self.model, summary, min_similarity)
                self.rejected.update(dict.fromkeys(clusters.numbers, 0))
            # Prometheus misses the first document of a counter that did not exist before.
            self.documents.update(dict.fromkeys([NO_CLUSTER, *clusters.numbers], 0))
        self.bypassed = {reason: BYPASSED.labels(*self.model, reason) for reason in KINDS}
        prometheus_client.REGISTRY.register(self)

    def count_bypass(self, reason: str) -> None:
        self.bypassed[reason].inc()

    def show_ready(self, is_ready: Callable[[], bool]) -> None:
        READY.labels(*self.model).set_function(is_ready)

    def observe(self, numbers: np.ndarray, similarities: np.ndarray | None, text_hashes: Iterable[int]) -> None:
        """Count documents by their nearest cluster, rejected or not, and their similarities to its centroid.

        The training, with which this is compared, rejects no document.

        Args:
            numbers: of the nearest clusters, shape (documents,).
            similarities: to their centroids, shape (documents,); None: there are no centroids.
            text_hashes: of each document, to recognize repeated texts.
        """
        self.documents.update(numbers.tolist())
        self.count_distinct(text_hashes)
        if similarities is None:
            return
        for number, similarity in zip(numbers.tolist(), similarities.tolist()):
            if number == NO_CLUSTER:
                continue
            histogram = self.histograms.get(number) or self.histograms.setdefault(number, [0] * (len(BUCKETS) + 1))
            histogram[bisect_left(BUCKETS, similarity)] += 1
            self.sums[number] += similarity
            if self.min_similarity and similarity < self.min_similarity:
                self.rejected[number] += 1

    def count_distinct(self, text_hashes: Iterable[int]) -> None:
        """Count documents that differ from the last RECENT_TEXTS texts. A health probe's text counts once."""
        for text_hash in text_hashes:
            if text_hash in self.recent:
                self.recent.move_to_end(text_hash)
                continue
            self.distinct += 1
            self.recent[text_hash] = None
            if len(self.recent) > RECENT_TEXTS:
                self.recent.popitem(last=False)

    def collect(self) -> Iterator[Metric]:
        documents = CounterMetricFamily(
            "textclustering_documents",
            "Documents by their nearest cluster, -1: no in-vocabulary term",
            labels=[*MODEL, "cluster"],
        )
        for number, count in self.documents.items():
            documents.add_metric([*self.model, str(number)], count)
        yield documents
        if self.min_similarity:
            yield self.collect_rejected()
        distinct = CounterMetricFamily(
            "textclustering_distinct_documents",
            f"Documents that differ from the last {RECENT_TEXTS} texts",
            labels=MODEL,
        )
        distinct.add_metric(self.model, self.distinct)
        yield distinct
        similarity = HistogramMetricFamily(
            "textclustering_similarity",
            "Cosine between a document and the centroid of its cluster",
            labels=[*MODEL, "cluster"],
        )
        for number, histogram in self.histograms.items():
            buckets = list(zip([*map(str, BUCKETS), "+Inf"], accumulate(histogram)))
            similarity.add_metric([*self.model, str(number)], buckets, self.sums[number])
        yield similarity

    def collect_rejected(self) -> Metric:
        rejected = CounterMetricFamily(
            "textclustering_rejected_documents",
            "Documents by their nearest cluster that are less similar to it than --min-similarity: answered with -1",
            labels=[*MODEL, "cluster"],
        )
        for number, count in self.rejected.items():
            rejected.add_metric([*self.model, str(number)], count)
        return rejected


def show_trained_rejections(model: tuple[str, str], summary: Summary, min_similarity: float) -> None:
    """Set the gauge of the share that the minimum similarity would reject, interpolated between those in clusters.json."""
    if shares := summary["baseline"].get("rejected"):  # earlier models have none
        known = [0.0, *map(float, shares), 1.0], [0.0, *shares.values(), 1.0]
        share = (1 - summary["baseline"]["unknown"]) * float(np.interp(min_similarity, *known))
        TRAINED_REJECTED.labels(*model, f"{min_similarity:g}").set(share)


def show_baseline(model: tuple[str, str], summary: Summary) -> None:
    """Set the gauges of the training from clusters.json."""
    baseline, clusters = summary["baseline"], summary["clusters"]
    TRAINED_DOCUMENTS.labels(*model).set(baseline.get("documents", summary["settings"]["sample"]))
    TRAINED_SHARE.labels(*model, NO_CLUSTER, "no known term").set(baseline["unknown"])
    for cluster in clusters:
        share = (1 - baseline["unknown"]) * cluster["share"]
        TRAINED_SHARE.labels(*model, cluster["cluster"], about(cluster)).set(share)
    for number, similarity in [("", baseline["similarity"]), *((c["cluster"], c["similarity"]) for c in clusters)]:
        for quantile, cosine in similarity.items():
            TRAINED_SIMILARITY.labels(*model, number, quantile).set(cosine)
