"""The methods under test: one file each."""
