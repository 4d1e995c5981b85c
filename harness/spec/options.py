"""A method's options."""

from __future__ import annotations

from floe_bench.harness.spec.base import Data


class Options(Data):
    """A method's options; a plugin subclasses it with typed, defaulted fields."""

    def mixes(self) -> tuple[str, ...]:
        """Mixes besides the cell's own whose rows the plan depends on."""
        return ()

    def methods(self) -> tuple[str, ...]:
        """Other methods whose plans this one's plan depends on."""
        return ()
