"""Datasets: from a source to packed pixels to batches on the device."""
