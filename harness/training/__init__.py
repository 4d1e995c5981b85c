"""The one training path of all methods."""
