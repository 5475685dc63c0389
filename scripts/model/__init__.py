"""A trained model on disk and in memory. The only folder of scripts/ that the transformer image needs."""
