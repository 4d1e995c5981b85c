"""A cell's identity: all that can change its result; its digest is the key of the cell's record.

Finding out what is done needs no weights, and none of the libraries that compute.
"""

from __future__ import annotations

from typing import Any

from harness.contracts import Cell
from harness.identity import ENGINE, module_digests, result_settings, source_digests, versions
from harness.registry import find, parse_method
from harness.scoring import items_digest
from harness.workbench import Workbench


def cell_identity(bench: Workbench, cell: Cell) -> dict[str, Any]:
    """All that can change the cell's result, component by component (`why` compares two of these)."""
    method = parse_method(cell.method)
    evals = [find("evaluation", name) for name in bench.settings.eval.evals]
    mixes = dict.fromkeys((cell.mix, *method.options.mixes()))
    others = [parse_method(name) for name in method.options.methods()]
    return {
        "cell": cell.model_dump(mode="json"),
        "settings": result_settings(bench.settings),
        "method": source_digests(method.plugin.file),
        "other_methods": {other.name: source_digests(other.plugin.file) for other in others},
        "mix": source_digests(find("mix", cell.mix).file),
        "evaluations": {plugin.id: source_digests(plugin.file) for plugin in evals},
        "engine": module_digests(*ENGINE),
        "data": {mix: bench.mix(mix).digest for mix in mixes},
        "text": bench.text_digest,
        "items": {plugin.id: items_digest(bench, plugin) for plugin in evals},
        "model": bench.model_ref.identity,
        "versions": versions(),
    }
