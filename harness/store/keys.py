"""A cell's identity: all that can change its result; its digest is the key of the cell's record.

Finding out what is done needs no weights, and none of the libraries that compute.
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
    """What a cell reads, as digests: rows of each mix, plain text, items of each evaluation, the base model."""

    data: Mapping[str, str]
    text: str
    items: Mapping[str, str]
    model: str


def cell_identity(
    cell: Cell, settings: Settings, method: MethodRef, mix: Plugin, evaluations: Sequence[Plugin], content: Content
) -> dict[str, Any]:
    """All that can change the cell's result, component by component (`why` compares two of these)."""
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
    """The settings that can change a cell's result: not where files lie, nor what else is in the grid."""
    values = settings.model_dump(mode="json", exclude={"description", "methods", "mixes", "seeds", "study"})
    for section, key in (
        ("model", "path"),
        ("data", "path"),
        ("eval", "primary"),
        ("train", "checkpoint_steps"),
    ):
        del values[section][key]
    return values
