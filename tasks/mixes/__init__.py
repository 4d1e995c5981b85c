"""Data mixes: one file each."""
