"""Rows: their sources, splits, tokens, overlap with evaluation items."""
