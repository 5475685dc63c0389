"""From texts to clusters: vocabulary, TF-IDF, LSA, k-means, statistics, and the lineage of cluster numbers."""
