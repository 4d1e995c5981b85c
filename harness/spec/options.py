"""Provide the base class of a method's options."""

from __future__ import annotations

from floe_bench.harness.spec.base import Data


class Options(Data):
    """Hold a method's options. A plugin subclasses it with typed fields that have defaults."""

    def mixes(self) -> tuple[str, ...]:
        """Return the mixes, besides the cell's own, whose rows the plan depends on."""
        return ()

    def methods(self) -> tuple[str, ...]:
        """Return the other methods whose plans this one's plan depends on."""
        return ()
