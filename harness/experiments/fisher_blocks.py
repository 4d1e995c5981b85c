"""Diagonal, block, full and true Fisher, and parameter diagonal: what each picks, and what training makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._contrasts import contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.experiments._gradients import Floats, picks, scored
from floe_bench.harness.experiments._shared import layers_text
from floe_bench.harness.floe.fisher import block_fisher, fisher_diagonal, fisher_matrix
from floe_bench.harness.floe.selection import objective
from floe_bench.harness.report.format import digits, percent
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.ranks import jaccard

SCORES = "layer_scores:scores=fisher+taylor+true_fisher+parameter_diagonal+adapter_fisher"
RANDOM_SETS = 200
"""Random layer sets to compare with. Their mean objective is known to within a fourteenth of their spread."""
NOTHING_YET = ["No finished cell has these layer scores yet."]


def methods(settings: Settings) -> dict[str, str]:
    """Return criterion -> the method that selects by it. The diagonal comes first."""
    sized = {
        f"blocks of {b}": f"floe_layers:fisher=block{f':b={b}' if b != 2 else ''}" for b in settings.study.block_sizes
    }
    return (
        {"diagonal": "floe_layers"}
        | sized
        | {
            "full": "floe_layers:fisher=full",
            "parameter diagonal": "floe_layers:fisher=parameter",
            "true Fisher": "floe_layers:fisher=true",
        }
    )


def cells(settings: Settings) -> list[Cell]:
    """Return all scores, and the training of FLoE's layers by each criterion. Equal picks share one training."""
    return [
        Cell(method=method, mix=mix, seed=seed)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method in dict.fromkeys([SCORES, *methods(settings).values()])
    ]


def tables(results: Results) -> list[Table]:
    """Show picks and objectives, where the mass of I lies, each training, and the Fisher over parameters."""
    picked, masses, parameters = [], [], []
    for cell in results.cells:
        found = scored(results, cell) if cell.method == SCORES else None
        if found is None:
            continue
        record, G, T = found
        key = {"mix": cell.mix, "seed": cell.seed}
        of_record = criteria(results, record, G)
        picked += [key | row for row in pick_rows(of_record, G, T, results.settings)]
        masses += [
            key | {"labels": labels} | mass_row(g, results.settings) for labels, g in _labelled(results, record, G)
        ]
        adapter = results.arrays(record, "adapter_fisher")
        if adapter is not None:
            parameters.append(key | parameter_row(adapter["F"], len(adapter["layers"])))
    return [
        _picks_table(pd.DataFrame(picked)),
        _mass_table(pd.DataFrame(masses), results.settings),
        _training(results),
        _parameter_table(pd.DataFrame(parameters)),
    ]


# --- what each criterion picks ------------------------------------------------------------------------


def criteria(results: Results, record: Record, G: Floats) -> dict[str, Floats]:
    """Return criterion -> the Fisher it selects by, (L,) or (L, L), for those that the record measured."""
    full = fisher_matrix(G)
    found = {"diagonal": fisher_diagonal(G)}
    found |= {f"blocks of {b}": block_fisher(full, b) for b in results.settings.study.block_sizes}
    found |= {"full": full}
    by_parameter = results.arrays(record, "parameter_diagonal")
    if by_parameter is not None:
        found["parameter diagonal"] = by_parameter["D"]
    true = results.arrays(record, "true_fisher_gradients")
    return found | ({"true Fisher": fisher_diagonal(true["G"])} if true is not None else {})


def pick_rows(fishers: dict[str, Floats], G: Floats, T: Floats, settings: Settings) -> list[dict[str, Any]]:
    """Return one row per criterion: its picks and their objective ½ (1-m)ᵀ I (1-m) under the full I.

    `objective_share` is the objective as a share of that of adapting no layer. The last row is the mean of random sets.
    They are as large as the diagonal's picks, whatever their Taylor importance.
    """
    full, taken = fisher_matrix(G), {name: picks(fisher, T, settings.selection) for name, fisher in fishers.items()}
    nothing, size = objective(full, ()), len(taken["diagonal"])
    rows: list[dict[str, Any]] = [
        {
            "criterion": name,
            "layers": layers_text(layers),
            "n_layers": len(layers),
            "jaccard_diagonal": jaccard(layers, taken["diagonal"]),
            "objective": objective(full, layers),
            "objective_share": objective(full, layers) / nothing if nothing else None,
            "taylor_share": float(T[list(layers)].sum() / T.sum()),
        }
        for name, layers in taken.items()
    ]
    generator = np.random.default_rng(0)
    sets = [generator.choice(len(T), size, replace=False).tolist() for _ in range(RANDOM_SETS)]
    reached = float(np.mean([objective(full, layers) for layers in sets]))
    return [
        *rows,
        {
            "criterion": "random sets",
            "n_layers": size,
            "jaccard_diagonal": float(np.mean([jaccard(layers, taken["diagonal"]) for layers in sets])),
            "objective": reached,
            "objective_share": reached / nothing if nothing else None,
        },
    ]


PICKS_VIEW: View = {
    "Mix": "mix",
    "Seed": "seed",
    "Criterion": "criterion",
    "Layers": lambda frame: frame["layers"].fillna("–"),
    "Jaccard with diagonal": ("jaccard_diagonal", digits(2)),
    "Objective, % of none": ("objective_share", percent),
    "Taylor, % of all": ("taylor_share", percent),
}


def _picks_table(frame: pd.DataFrame) -> Table:
    title = "Which layers each form of the Fisher picks"
    if frame.empty:
        return Table("fisher_blocks", title, frame, frame, NOTHING_YET)
    notes = [
        "Objective: ½ (1-m)ᵀ I (1-m) under the full empirical I, whatever the criterion, as a share of adapting no "
        "layer; lower is better. `full` minimises it, by greedy and single moves: another criterion below it has "
        "found what these missed. All under the same K and Taylor budget.",
        f"True Fisher: diagonal, labels drawn once a sample from the model. Random sets: mean of {RANDOM_SETS} sets as "
        "large as the diagonal's, without a Taylor budget.",
    ]
    return Table("fisher_blocks", title, frame, view(frame, PICKS_VIEW), notes)


# --- where the mass of I lies -------------------------------------------------------------------------


def _labelled(results: Results, record: Record, G: Floats) -> list[tuple[str, Floats]]:
    true = results.arrays(record, "true_fisher_gradients")
    found = [("data's", G)]
    return found if true is None else [*found, ("model's", np.asarray(true["G"], dtype=float))]


def mass_row(G: Floats, settings: Settings) -> dict[str, Any]:
    """Return how much of I lies off its diagonal, as shares of the squared Frobenius norm.

    `off_diagonal_by_chance` is the share to expect with each g_nk's sign drawn at random. Then no layers correlate and
    the diagonal stays. `mean_gradient` is |(1/N) Σ g_n|² over the trace: what a pilot off its optimum adds to I.
    """
    I, squares = fisher_matrix(G), np.square(G)  # noqa: E741  (I is the paper's letter)
    total, on = float(np.square(I).sum()), float(np.square(I.diagonal()).sum())
    by_chance = float((squares.sum(axis=1) ** 2 - np.square(squares).sum(axis=1)).sum() / len(G) ** 2)
    return {
        "samples": len(G),
        "off_diagonal": _share(total - on, total),
        "off_diagonal_by_chance": _share(by_chance, on + by_chance),
        **{
            f"in_blocks_{b}": _share(float(np.square(block_fisher(I, b)).sum()), total)
            for b in settings.study.block_sizes
        },
        "off_diagonal_objective": _share(float(I.sum() - I.trace()), float(I.sum())),
        "mean_gradient": _share(float(np.square(G.mean(axis=0)).sum()), float(I.trace())),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mass_table(frame: pd.DataFrame, settings: Settings) -> Table:
    title = "How much of the Fisher lies off its diagonal"
    if frame.empty:
        return Table("fisher_blocks_mass", title, frame, frame, NOTHING_YET)
    columns = (
        {"Mix": "mix", "Seed": "seed", "Labels": "labels", "Samples": "samples"}
        | {"Off diagonal %": ("off_diagonal", percent), "by chance %": ("off_diagonal_by_chance", percent)}
        | {f"In blocks of {b} %": (f"in_blocks_{b}", percent) for b in settings.study.block_sizes}
        | {
            "Off-diagonal part of the objective %": ("off_diagonal_objective", percent),
            "Mean gradient %": ("mean_gradient", percent),
        }
    )
    notes = [
        "Off diagonal, in blocks: of the squared Frobenius norm of I; blocks hold the diagonal too. By chance: what as "
        "many samples give where layers do not correlate; a share near it is noise of a small sample.",
        "Off-diagonal part of the objective: of ½ 1ᵀI1, with no layer adapted; negative where layers cancel.",
        "Mean gradient: |mean g|² of the trace; a pilot at its optimum on the sample would have none.",
    ]
    return Table("fisher_blocks_mass", title, frame, view(frame, columns), notes)


# --- training, and parameters -------------------------------------------------------------------------


def _training(results: Results) -> Table:
    """Compare the training of each criterion's picks with that of the diagonal's."""
    settings = results.settings

    def seeded(method: str, mix: str) -> list[Cell]:
        return [Cell(method=method, mix=mix, seed=seed) for seed in range(settings.seeds)]

    rows = [
        contrast(results, seeded(method, mix), seeded("floe_layers", mix), mix=mix, criterion=criterion)
        for mix in settings.mixes
        for criterion, method in methods(settings).items()
    ]
    frame, title = contrast_frame(results, rows), "Training the layers that each form of the Fisher picks"
    if frame.empty:
        return Table("fisher_blocks_training", title, frame, frame, ["No finished cell yet."])
    own = {"Mix": "mix", "Criterion": "criterion"}
    shown = view(frame, own | contrast_view(1 - settings.study.confidence))
    return Table("fisher_blocks_training", title, frame, shown, contrast_notes(results, "the diagonal's picks"))


def parameter_row(F: Floats, n_layers: int) -> dict[str, Any]:
    """Return where the full Fisher F (P, P) over some adapter parameters has its mass.

    F holds equally many parameters of each layer, layer after layer.
    """
    squared = np.square(np.asarray(F, dtype=float))
    total, on = float(squared.sum()), float(squared.trace())
    layer = np.arange(len(squared)) * n_layers // len(squared)
    within = float(squared[layer[:, None] == layer].sum()) - on
    return {
        "parameters": len(squared),
        "diagonal": _share(on, total),
        "within_layers": _share(within, total),
        "between_layers": _share(total - on - within, total),
    }


def _parameter_table(frame: pd.DataFrame) -> Table:
    title = "The full Fisher over some of the adapter's parameters"
    if frame.empty:
        return Table("fisher_blocks_parameters", title, frame, frame, NOTHING_YET)
    columns: View = {
        "Mix": "mix",
        "Seed": "seed",
        "Parameters": "parameters",
        "On the diagonal %": ("diagonal", percent),
        "Off it, one layer %": ("within_layers", percent),
        "Between layers %": ("between_layers", percent),
    }
    notes = [
        "Of the squared Frobenius norm of F = (1/N) Σ_n ∂ℓ_n/∂θ (∂ℓ_n/∂θ)ᵀ. θ: the first entries of every adapted "
        "module's stacked experts B; the rest may differ. With more parameters than samples F has at most N ranks, so "
        "part of what lies off the diagonal is the sample's."
    ]
    return Table("fisher_blocks_parameters", title, frame, view(frame, columns), notes)
