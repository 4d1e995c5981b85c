"""The data mixes, one file each."""
