"""The command `floe-bench`."""
