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
FEW, MANY = 0.0005, 0.2  # shares of the documents
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
    """Log which values of --min-similarity would reject a few documents: from none to a fifth.

    Args:
        shares: of the documents, by value of the option; baseline.rejected of clusters.json.
    """
    highest_of_none = [least for least, share in shares.items() if share < FEW][-1:]
    chosen = [*highest_of_none, *(least for least, share in shares.items() if FEW <= share <= MANY)]
    listed = ", ".join(f"{least}: {100 * shares[least]:.1f} %" for least in chosen or shares)
    log.info("Share of the documents that --min-similarity would reject: %s", listed)


def log_scores(scores: dict[str, float], clusters: list[dict]) -> None:
    """Log the scores and the top terms.

    Args:
        clusters: of clusters.json.
    """
    for name, score in scores.items():
        log.info("%s: %.3f", SCORE_NAMES[name], score)
    top_terms = [f"Cluster {cluster['cluster']}: {list_terms(cluster)}" for cluster in clusters]
    log.info("Top terms per cluster:\n%s", "\n".join(top_terms))
