"""A cell's identity, from its rows, items and base model as they were read."""

from __future__ import annotations

from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.files import digest
from floe_bench.harness.registry import find, parse_method
from floe_bench.harness.run.evaluation_inputs import items_of
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.keys import Content, cell_identity


def identity_of(session: Session, cell: Cell) -> dict[str, Any]:
    """`store.keys.cell_identity` of the cell. `session`: the cell's own. Raises UsageError for unreadable data."""
    method = parse_method(cell.method)
    evaluations = [find("evaluation", name) for name in session.settings.eval.evals]
    mixes = dict.fromkeys((cell.mix, *method.options.mixes()))
    content = Content(
        data={mix: session.mix(mix).digest for mix in mixes},
        text=session.text_digest,
        items={plugin.id: digest(items_of(session, plugin)) for plugin in evaluations},
        model=session.model_ref.identity,
    )
    return cell_identity(cell, session.settings, method, find("mix", cell.mix), evaluations, content)
