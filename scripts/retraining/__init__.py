"""Continuous training: when to train, whether a candidate is good enough, and whether its canary is."""
