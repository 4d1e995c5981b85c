"""The engine: one way from a profile and some names to records and tables."""
