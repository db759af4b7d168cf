"""Metrics and the statistics that compare models."""
