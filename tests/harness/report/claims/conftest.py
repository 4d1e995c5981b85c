"""The experiments' made-up results, for the rules that read their tables."""

from ...experiments.conftest import made  # noqa: F401  (pytest finds the fixture by its name here)
