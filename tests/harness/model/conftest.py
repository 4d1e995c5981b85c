"""The mathematics' small models, with and without an adapter."""

from ..floe.conftest import adapted, randomise, tiny_model, tokens  # noqa: F401  (pytest finds fixtures by name here)
