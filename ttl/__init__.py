"""Find the smallest part of a pretrained network that classifies medical images no worse than the whole."""

__version__ = "0.1.0"
