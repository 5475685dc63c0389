"""The parts of transformer.py: requests, predictor, metrics and server."""
