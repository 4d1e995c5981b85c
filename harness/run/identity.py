"""A cell's identity, from its rows, items and base model as they were read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.files import digest
from floe_bench.harness.registry import find, parse_method
from floe_bench.harness.run.evaluation_inputs import items_of
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store
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


def identities_of(settings: Settings, store: Store, cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
    """Return each cell's identity as it is now. Needs no weights where they lie in a package or are random."""
    session = Session(settings, store, progress=lambda text: None)
    return {cell: identity_of(session.of(cell), cell) for cell in cells}


def keys_of(settings: Settings, store: Store, cells: Sequence[Cell]) -> dict[Cell, str]:
    """Return each cell's key as it is now: the digest of its identity."""
    return {cell: digest(identity) for cell, identity in identities_of(settings, store, cells).items()}
