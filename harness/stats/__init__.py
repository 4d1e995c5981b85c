"""Statistics of plain arrays; knows nothing of records or cells."""
