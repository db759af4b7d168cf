"""Prefect flows. They are thin: the work is done in `ttl`."""
