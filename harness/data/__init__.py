"""Rows: their sources, splits, tokens and overlap with evaluation items."""
