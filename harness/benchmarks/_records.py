"""Fill a results folder of any size: run a few cells, and copy them as records of many others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record, StagesUsed
from floe_bench.harness.experiments import main
from floe_bench.harness.files import digest
from floe_bench.harness.registry import parse_method
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store

PROFILE = "tiny"
METHODS = ("base", "lora", "random_layers", "floe_layers")
"""A grid of many methods repeats these with other options."""
SEEDS = 5


def settings_of(n: int) -> Settings:
    """Return the profile with a grid of n cells in two mixes and `SEEDS` seeds. n is a multiple of ten."""
    count, rest = divmod(n, 2 * SEEDS)
    if rest or not count:
        raise ValueError(f"a grid of two mixes and {SEEDS} seeds has a multiple of {2 * SEEDS} cells, not {n}")
    methods = tuple(parse_method(_method(i)).name for i in range(count))
    return profiles.load(PROFILE, {"methods": methods, "seeds": SEEDS, "study.reference": methods[-1]})


def _method(i: int) -> str:
    """Return another method for every i."""
    if i == 0:
        return METHODS[0]
    number, kind = divmod(i - 1, len(METHODS) - 1)
    options = (f"lora_alpha={number + 1}", f"draw={number}", f"fisher=block:b={number + 1}")
    return f"{METHODS[kind + 1]}:{options[kind]}"


def run_models(results: Path) -> dict[str, Record]:
    """Run one cell of each of METHODS. Return method -> record."""
    settings = profiles.load(PROFILE, {"methods": METHODS, "mixes": ("dolly",)})
    store = Store(results, PROFILE)
    cells = main.cells(settings)
    with Progress() as progress:
        outcome = run_grid(Session(settings, store), cells, progress)
    if outcome.failed:
        raise RuntimeError(next(record.error for record in outcome.records if record.error))
    return {record.cell.method: record for record in outcome.records}


def fill(store: Store, settings: Settings, models: Mapping[str, Record], models_in: Store) -> None:
    """Write a finished record, with stages of its own, of every cell of the settings' main grid."""
    session = Session(settings, store)
    for cell in main.cells(settings):
        resolved = resolve_cell(session, cell)
        model = models[cell.method.partition(":")[0]]
        used = model.stages
        stages = StagesUsed(
            planning=tuple(_copied(name, cell, models_in, store) for name in used.planning),
            training=_copied(used.training, cell, models_in, store) if used.training else None,
            evaluations={role: _copied(name, cell, models_in, store) for role, name in used.evaluations.items()},
        )
        own = {"cell": cell, "identity": resolved.identity, "key": resolved.key, "stages": stages}
        store.write(model.model_copy(update=own))


def _copied(name: str, cell: Cell, origin: Store, store: Store) -> str:
    """Copy a stage, without its weights, as one of the cell's own. Return the name of the copy."""
    stage = origin.stage(name)
    assert stage is not None
    copy = stage.model_copy(update={"key": digest([stage.key, cell.label])})
    source, target = (s.folder / "stages" / folder for s, folder in ((origin, name), (store, copy.folder)))
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name != "stage.json":
            shutil.copy(file, target)
    store.write_stage(copy)
    return target.name
