"""Score the clusters."""

import contextlib
import logging

import numpy as np
from sklearn import config_context, metrics
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD

from model.artefacts import list_terms
from training.cluster_statistics import ClusterStatistics

SILHOUETTE_SAMPLE = 5_000  # all pairs of a larger corpus take minutes and change the third digit
SCORE_NAMES = {
    "explained_variance": "Explained variance",
    "homogeneity": "Homogeneity",
    "completeness": "Completeness",
    "v_measure": "V-measure",
    "adjusted_rand_index": "Adjusted Rand index",
    "adjusted_mutual_information": "Adjusted mutual information",
    "silhouette": "Silhouette",
}

log = logging.getLogger("text_clustering")


def measure_scores(
    svd: TruncatedSVD, model: KMeans, vectors: np.ndarray, statistics: ClusterStatistics, seed: int
) -> dict[str, float]:
    """Explained variance and silhouette, and where the corpus has labels, the agreement with them."""
    scores = {"explained_variance": float(svd.explained_variance_ratio_.sum()), **statistics.agreement()}
    # Without the limit all distances of the sample are in memory at a time: 200 MB, the peak of a whole training.
    with contextlib.suppress(ValueError), config_context(working_memory=32):  # one cluster, or one document in each
        sample = min(SILHOUETTE_SAMPLE, len(vectors))
        scores["silhouette"] = float(
            metrics.silhouette_score(vectors, model.labels_, sample_size=sample, random_state=seed)
        )
    return scores


def log_rejections(shares: dict[str, float]) -> None:
    """Log what --min-similarity would reject.

    Args:
        shares: of the documents, by value of the option; baseline.rejected of clusters.json.
    """
    listed = ", ".join(f"{least}: {100 * share:.1f} %" for least, share in shares.items())
    log.info("Share of these documents that --min-similarity would reject: %s", listed)


def log_scores(scores: dict[str, float], clusters: list[dict]) -> None:
    """Log the scores and the top terms.

    Args:
        clusters: of clusters.json.
    """
    for name, score in scores.items():
        log.info("%s: %.3f", SCORE_NAMES[name], score)
    top_terms = [f"Cluster {cluster['cluster']}: {list_terms(cluster)}" for cluster in clusters]
    log.info("Top terms per cluster:\n%s", "\n".join(top_terms))
