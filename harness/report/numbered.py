"""Order plugins that have a permanent number of their own: checks and claims."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from floe_bench.harness.errors import UsageError
from floe_bench.harness.registry import Kind, Plugin, plugins


def by_number(kind: Kind, number_of: Callable[[ModuleType], int]) -> dict[int, tuple[Plugin, ModuleType]]:
    """Load every plugin of the kind, in the order of their numbers. Raises UsageError where two share a number."""
    found: dict[int, tuple[Plugin, ModuleType]] = {}
    for plugin in plugins(kind).values():
        module = plugin.load()
        number = number_of(module)
        if number in found:
            raise UsageError(f"{kind}s {found[number][0].id} and {plugin.id} both have number {number}: renumber one")
        found[number] = plugin, module
    return dict(sorted(found.items()))
