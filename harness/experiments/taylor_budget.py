"""Sweep of the Taylor budget c: which layers it admits, and what they are worth once trained."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._contrasts import Contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.experiments._shared import layers_text
from floe_bench.harness.experiments._sweep import (
    configured_layers,
    forgetting_of,
    grouped,
    made_table,
    mean,
    of_first_seed,
    same_seeds,
)
from floe_bench.harness.floe import selection
from floe_bench.harness.report.format import digits, number, percent
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings

METHOD, VARIED = "floe_layers", "selection.taylor_budget"

FINE_GRID = tuple(i / 20 for i in range(1, 21))

MOST_LAYERS = 40
"""Most layers whose K-sets are counted: half of them have 2^20 subsets."""


def cells(settings: Settings) -> list[Cell]:
    """Return FLoE's layers at the profile's own c, and at each c of the grid."""
    varied = [(), *(((VARIED, c),) for c in budgets(settings))]
    return [
        Cell(method=METHOD, mix=mix, seed=seed, varied=at)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for at in varied
    ]


def budgets(settings: Settings) -> tuple[float, ...]:
    """Return study.taylor_budgets besides the profile's own c, with 1/L in place of what is below.

    From 1/L on a layer always fits, because the least Taylor importance is at most the mean. 1/L is rounded up, so that
    equal importances fit too.
    """
    n_layers = configured_layers(settings)
    if n_layers is None:
        return tuple(dict.fromkeys(settings.study.taylor_budgets))
    least = math.ceil(1e6 / n_layers) / 1e6
    chosen = settings.selection
    own = selection.budget_share(chosen.layer_fraction, chosen.taylor_budget, chosen.taylor_budget_factor, n_layers)
    grid = dict.fromkeys(max(c, least) for c in settings.study.taylor_budgets)
    return tuple(c for c in grid if not math.isclose(c, own))


def tables(results: Results) -> list[Table]:
    """Show the trained sweep, and a finer one from the stored scores alone."""
    trained, sweep = trained_frame(results), sweep_frame(results)
    notes = [
        "c: the budget as a share of all Taylor importance; the reference is the profile's own c. A c of the grid "
        "below 1/L stands at 1/L, from which on a layer always fits. Fisher left out: the share of the diagonal "
        "Fisher that the other layers hold. Forgetting: change of the NLL on plain text.",
        *contrast_notes(results, "the profile's own c"),
    ]
    sweep_notes = [
        "No training: from the Fisher and Taylor scores in the records. Feasible: the share of all sets of K layers "
        "within the budget. Binds: without a budget other layers would be selected. No layers: none fits.",
        "The scores are one sample's. Shown: the first seed, and each c at which something changes; the CSV has all.",
    ]
    return [
        made_table(
            "taylor_budget",
            "Sweep of the Taylor budget",
            trained,
            view(trained, TRAINED_VIEW | contrast_view(1 - results.settings.study.confidence)),
            notes,
        ),
        made_table(
            "taylor_budget_selection",
            "What the Taylor budget admits",
            sweep,
            view(_without_repeats(of_first_seed(sweep)), SWEEP_VIEW),
            sweep_notes,
        ),
    ]


def trained_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix and c, by rising c. Shares are fractions, NLLs nats per token."""
    groups = grouped(results, lambda record: (record.cell.mix, record.cell.varied))
    rows = [_contrast(mix, records, groups.get((mix, ()), [])) for (mix, _), records in groups.items()]
    order = list(dict.fromkeys(mix for mix, _ in groups))
    rows.sort(key=lambda row: (order.index(row.columns["mix"]), row.columns["c"]))
    return contrast_frame(results, rows)


def _contrast(mix: str, records: list[Record], own: list[Record]) -> Contrast:
    shares = [_shares(record) for record in records]
    columns = {
        "mix": mix,
        "c": mean(share["budget"] for share in shares),
        "n_layers": mean(len(record.plan.layers) for record in records),
        "taylor_spent": mean(share["spent"] for share in shares),
        "fisher_left_out": mean(share["left_out"] for share in shares),
        "forgetting": mean(forgetting_of(record) for record in records),
    }
    return Contrast(columns, records, same_seeds(records, own))


def _shares(record: Record) -> dict[str, float]:
    found = record.plan.selected
    assert found is not None  # the method selects under the budget
    total, fisher = sum(record.plan.scores["taylor"]), sum(record.plan.scores["fisher"])
    return {
        "budget": found.taylor_budget / total,
        "spent": found.taylor_spent / total,
        "left_out": 2 * found.objective / fisher if fisher else math.nan,
    }


TRAINED_VIEW: dict[str, Any] = {
    "Mix": "mix",
    "c": ("c", "{:.3g}".format),
    "How many": ("n_layers", "{:.3g}".format),
    "Taylor spent %": ("taylor_spent", percent),
    "Fisher left out %": ("fisher_left_out", percent),
    "Forgetting": ("forgetting", digits(3, sign=True)),
}


def sweep_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix, seed and c of a finer grid: the layers selected, and how many K-sets fit."""
    rows: list[dict[str, Any]] = []
    for (mix, seed), records in grouped(results, lambda record: (record.cell.mix, record.cell.seed)).items():
        plan = records[0].plan
        fisher, taylor, k = np.array(plan.scores["fisher"]), np.array(plan.scores["taylor"]), plan.k
        assert k is not None  # as above
        limits = tuple(c * float(taylor.sum()) for c in FINE_GRID)
        shares = feasible_shares(tuple(plan.scores["taylor"]), limits, k)
        free = selection.select(fisher, taylor, math.inf, k).layers
        for c, limit, share in zip(FINE_GRID, limits, shares, strict=True):
            fits = taylor.min() <= limit * (1 + selection.BUDGET_RTOL)
            found = selection.select(fisher, taylor, limit, k) if fits else None
            rows.append(
                {
                    "mix": mix,
                    "seed": seed,
                    "c": c,
                    "layers": layers_text(found.layers) if found else "",
                    "n_layers": len(found.layers) if found else 0,
                    "taylor_spent": found.taylor_spent / float(taylor.sum()) if found else 0.0,
                    "fisher_left_out": 2 * found.objective / fisher.sum() if found and fisher.any() else None,
                    "binds": found is None or found.layers != free,
                    "k": k,
                    "feasible_share": share,
                }
            )
    return pd.DataFrame(rows)


def _without_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the rows that select and admit what the row before does."""
    if frame.empty:
        return frame
    told = frame[["mix", "layers", "feasible_share"]]
    return frame.loc[~told.eq(told.shift()).all(axis=1)]


SWEEP_VIEW: View = {
    "Mix": "mix",
    "c from": ("c", "{:.2f}".format),
    "Layers": ("layers", lambda text: text or "–"),
    "How many": ("n_layers", "k", "{} of {}".format),
    "Taylor spent %": ("taylor_spent", percent),
    "Fisher left out %": ("fisher_left_out", percent),
    "Binds": ("binds", lambda binds: "yes" if binds else "no"),
    "Feasible K-sets %": ("feasible_share", lambda x: number(None if x is None else 100 * x, 2)),
}


@cache
def feasible_shares(taylor: tuple[float, ...], budgets: tuple[float, ...], k: int) -> tuple[float | None, ...]:
    """Return for each budget the share of all sets of k layers whose Taylor importance it admits.

    None for more than MOST_LAYERS layers. The share is exact: subsets of one half of the layers meet sorted subsets of
    the other half (Horowitz and Sahni 1974).
    """
    if len(taylor) > MOST_LAYERS:
        return tuple(None for _ in budgets)
    half = len(taylor) // 2
    left, right = _sums_by_size(taylor[:half]), _sums_by_size(taylor[half:])
    return tuple(
        sum(
            int(np.searchsorted(right[k - size], budget * (1 + selection.BUDGET_RTOL) - sums, side="right").sum())
            for size, sums in left.items()
            if k - size in right
        )
        / math.comb(len(taylor), k)
        for budget in budgets
    )


def _sums_by_size(values: tuple[float, ...]) -> dict[int, NDArray[np.float64]]:
    """Return the sums of all subsets, ascending, by the subset's size."""
    sums, sizes = np.zeros(1), np.zeros(1, dtype=int)
    for value in values:
        sums, sizes = np.concatenate([sums, sums + value]), np.concatenate([sizes, sizes + 1])
    return {size: np.sort(sums[sizes == size]) for size in range(len(values) + 1)}
