"""Collect a cell's identity: all that can change its result. Its digest is the key of the cell's record.

Nothing here loads weights or the libraries that compute. So it is quick to find out what is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.registry import MethodRef, Plugin, parse_method
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.code_identity import beyond_engine, engine
from floe_bench.harness.store.provenance import versions


@dataclass(frozen=True)
class Content:
    """Hold digests of what a cell reads.

    Attributes:
        data: mix -> digest of its rows.
        text: digest of the plain text.
        items: evaluation -> digest of its items.
        model: digest of the base model.
    """

    data: Mapping[str, str]
    text: str
    items: Mapping[str, str]
    model: str


def cell_identity(
    cell: Cell, settings: Settings, method: MethodRef, mix: Plugin, evaluations: Sequence[Plugin], content: Content
) -> dict[str, Any]:
    """Return all that can change the cell's result, component by component. `floe-bench why` compares two of these."""
    others = [parse_method(name) for name in method.options.methods()]
    return {
        "cell": cell.model_dump(mode="json"),
        "settings": result_settings(settings),
        "engine": engine(),
        "method": beyond_engine(method.plugin.module),
        "other_methods": {other.name: beyond_engine(other.plugin.module) for other in others},
        "mix": beyond_engine(mix.module),
        "evaluations": {plugin.id: beyond_engine(plugin.module) for plugin in evaluations},
        "data": dict(content.data),
        "text": content.text,
        "items": dict(content.items),
        "model": content.model,
        "versions": versions(),
    }


def result_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that can change a cell's result.

    Left out are the places of files, the rest of the grid, and what only tables or checkpoints follow.
    """
    values = settings.model_dump(mode="json", exclude={"description", "methods", "mixes", "seeds", "study"})
    for section, key in (
        ("model", "path"),
        ("data", "path"),
        ("eval", "primary"),
        ("train", "checkpoint_steps"),
    ):
        del values[section][key]
    return values
