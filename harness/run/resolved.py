"""A cell with what its name stands for: method, mix, evaluations and settings, looked up once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.files import digest
from floe_bench.harness.registry import MethodRef, Plugin, find, parse_method
from floe_bench.harness.run.evaluation_inputs import items_of
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.keys import Content, cell_identity


@dataclass(frozen=True)
class ResolvedCell:
    """Hold a cell and all that its name stands for. session: the one of the settings that the cell varies."""

    cell: Cell
    session: Session
    method: MethodRef
    mix: Plugin
    evaluations: tuple[Plugin, ...]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """`store.keys.cell_identity`, from rows, items and base model as they are read now.

        Needs no weights where they lie in a package or are random. Raises UsageError for unreadable data.
        """
        mixes = dict.fromkeys((self.mix.id, *self.method.options.mixes()))
        content = Content(
            data={mix: self.session.mix(mix).digest for mix in mixes},
            text=self.session.text_digest,
            items={plugin.id: digest(items_of(self.session, plugin)) for plugin in self.evaluations},
            model=self.session.model_ref.identity,
        )
        return cell_identity(self.cell, self.session.settings, self.method, self.mix, self.evaluations, content)

    def check_data(self) -> None:
        """Raise UsageError where rows or questions cannot be read, or are too few."""
        for evaluation in self.evaluations:
            items_of(self.session, evaluation)
        self.session.mix(self.mix.id)
        _ = self.session.text

    @cached_property
    def key(self) -> str:
        """Name the record of the cell as it is now: the digest of its identity."""
        return digest(self.identity)

    def of_method(self, name: str) -> ResolvedCell:
        """Return the cell of another method, on the same mix, seed and settings. Raises UsageError for its name."""
        method = parse_method(name)
        return replace(self, cell=self.cell.model_copy(update={"method": method.name}), method=method)


def resolve_cell(session: Session, cell: Cell) -> ResolvedCell:
    """Look up all that a cell's name stands for. session: that of the profile. Raises UsageError for unknown names."""
    own = session.of(cell)
    return ResolvedCell(
        cell=cell,
        session=own,
        method=parse_method(cell.method),
        mix=find("mix", cell.mix),
        evaluations=tuple(find("evaluation", name) for name in own.settings.eval.evals),
    )


def keys_of(session: Session, cells: Iterable[Cell]) -> dict[Cell, str]:
    """Return each cell's key as it is now."""
    return {cell: resolve_cell(session, cell).key for cell in cells}
