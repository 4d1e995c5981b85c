"""The order of a run: grid, cell, stages."""
