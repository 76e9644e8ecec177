"""Compare context heads for semantic segmentation under one protocol."""

__version__ = "0.1.0"
