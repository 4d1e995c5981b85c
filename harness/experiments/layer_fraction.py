"""From one adapted layer to all of them: accuracy, NLL, memory and speed, and where the cliff is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._accuracy import CHANCE_NOTE, accuracy_columns, accuracy_text
from floe_bench.harness.experiments._contrasts import Contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.experiments._shared import layers_text, nll_of
from floe_bench.harness.experiments._sweep import (
    configured_layers,
    forgetting_of,
    grouped,
    made_table,
    mean,
    same_seeds,
)
from floe_bench.harness.floe import selection
from floe_bench.harness.report.format import MISSING, count, digits, megabytes, number
from floe_bench.harness.report.pairing import p_text
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.trend import linear_trend

METHOD, VARIED = "floe_layers", "selection.layer_fraction"

COSTS = ("trainable_parameters", "adapter_bytes", "peak_bytes", "tokens_per_second")
TRENDS = ("peak_bytes", "trainable_parameters")


def cells(settings: Settings) -> list[Cell]:
    """Return FLoE's layers at each layer fraction of the grid."""
    return [
        Cell(method=METHOD, mix=mix, seed=seed, varied=((VARIED, fraction),))
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for fraction in fractions(settings)
    ]


def fractions(settings: Settings) -> tuple[float, ...]:
    """Return study.layer_fractions above 0. Of those that come to one K the last stays."""
    grid = [fraction for fraction in settings.study.layer_fractions if fraction > 0]
    n_layers = configured_layers(settings)
    if n_layers is None:
        return tuple(dict.fromkeys(grid))
    return tuple({selection.max_layers(fraction, n_layers): fraction for fraction in grid}.values())


def tables(results: Results) -> list[Table]:
    """Show scores and costs, the steps between neighbours, and the growth of memory."""
    scores, steps, memory = scores_frame(results), steps_frame(results), memory_frame(results)
    alpha = 1 - results.settings.study.confidence
    notes = [
        "K: the most layers that may be adapted; the Taylor budget (see selection.taylor_budget) can leave fewer. "
        "Peak: of the training, as its process measured it (accelerator, or resident memory over the start).",
        "One training a cell: a shared or busy machine moves memory and speed.",
        CHANCE_NOTE,
    ]
    step_notes = [
        *(_cliff(steps, mix, alpha) for mix in dict.fromkeys(steps["mix"] if len(steps) else [])),
        *contrast_notes(results, "the next larger K"),
        "Of the range: the step's change of NLL over the distance from the curve's best to its worst.",
    ]
    memory_notes = [
        "Slope per adapted layer of a least-squares line, with its interval; p: of an x² term beside it, small where "
        "the growth is not linear. All seeds together.",
        "The peak holds the base model's activations too, which depend on the lowest adapted layer.",
    ]
    return [
        made_table("layer_fraction", "From one adapted layer to all", scores, view(scores, SCORES_VIEW), notes),
        made_table(
            "layer_fraction_steps",
            "Steps to fewer adapted layers",
            steps,
            view(steps, STEPS_VIEW | contrast_view(alpha)),
            step_notes,
        ),
        made_table(
            "layer_fraction_memory",
            "Growth with the number of adapted layers",
            memory,
            view(memory, MEMORY_VIEW),
            memory_notes,
        ),
    ]


def scores_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix and K: means over seeds, sizes in bytes, NLLs in nats per token."""
    return pd.DataFrame(
        [
            {
                "mix": mix,
                "k": k,
                "n_layers": mean(len(record.plan.layers) for record in records),
                "seeds": len(records),
                "layers": " | ".join(dict.fromkeys(layers_text(record.plan.layers) for record in records)),
                **accuracy_columns(results, records),
                "nll": mean(nll_of(record) for record in records),
                "forgetting": mean(forgetting_of(record) for record in records),
            }
            | {name: mean(_measured(record, name) for record in records) for name in COSTS}
            for mix, by_k in _curves(results).items()
            for k, records in by_k.items()
        ]
    )


def steps_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix and pair of neighbouring Ks: what fewer layers lose. `nll_range` is the curve's."""
    rows = []
    for mix, by_k in _curves(results).items():
        nlls = [nll for records in by_k.values() if (nll := mean(map(nll_of, records))) is not None]
        spread = max(nlls) - min(nlls) if nlls else 0.0
        for fewer, more in pairwise(by_k):
            pairs = same_seeds(by_k[fewer], by_k[more])
            columns = {"mix": mix, "k_more": more, "k_fewer": fewer, "nll_range": spread}
            rows.append(Contrast(columns, by_k[fewer], pairs))
    return contrast_frame(results, rows)


def memory_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix and quantity: its slope per adapted layer (bytes, or parameters)."""
    rows = []
    for mix, by_k in _curves(results).items():
        records = [record for group in by_k.values() for record in group if record.training]
        layers = [len(record.plan.layers) for record in records]
        if len(records) < 3 or len(set(layers)) < 2:
            continue
        for name in TRENDS:
            values = np.array([_measured(record, name) for record in records], dtype=float)
            trend = linear_trend(layers, values, results.settings.study.confidence)
            counts = {"points": len(records), "counts": len(set(layers))}
            rows.append({"mix": mix, "quantity": name} | counts | vars(trend))
    return pd.DataFrame(rows)


def _curves(results: Results) -> dict[str, dict[int, list[Record]]]:
    """Return mix -> K -> records, by rising K. Of fractions that come to one K, a seed counts once."""
    found: dict[str, dict[int, list[Record]]] = {}
    for (mix, k), records in grouped(results, lambda record: (record.cell.mix, record.plan.k)).items():
        assert k is not None  # the method selects layers
        found.setdefault(mix, {})[k] = list({record.cell.seed: record for record in records}.values())
    return {mix: dict(sorted(by_k.items())) for mix, by_k in found.items()}


def _measured(record: Record, name: str) -> float | None:
    return getattr(record.training, name) if record.training else None


def _cliff(steps: pd.DataFrame, mix: str, alpha: float) -> str:
    """Say in a sentence which significant step loses most in NLL."""
    own = steps.loc[steps["mix"] == mix]
    worse = own.loc[(own["nll_p"].astype(float) < alpha) & (own["nll_difference"].astype(float) > 0)]
    if worse.empty:
        return f"{mix}: no cliff seen; no step to fewer layers raises the NLL significantly."
    step = worse.loc[worse["nll_difference"].astype(float).idxmax()]
    return (
        f"{mix}: the largest significant step is from K = {step['k_more']} to {step['k_fewer']}: NLL "
        f"{step['nll_difference']:+.4f} [{step['nll_low']:+.4f}, {step['nll_high']:+.4f}], "
        f"{_share_of_range(step['nll_difference'], step['nll_range']):.0%} of the curve's range."
    )


def _share_of_range(step: float, spread: float) -> float:
    return step / spread if spread else 0.0


SCORES_VIEW: View = {
    "Mix": "mix",
    "K": "k",
    "Adapted": ("n_layers", lambda x: f"{x:.3g}"),
    "Seeds": "seeds",
    "Layers": "layers",
    "Accuracy %": accuracy_text,
    "NLL": ("nll", digits(3)),
    "Forgetting": ("forgetting", digits(3, sign=True)),
    "Trainable": ("trainable_parameters", count),
    "Size MB": ("adapter_bytes", lambda size: number(None if size is None else size / 1e6, 3)),
    "Peak MB": ("peak_bytes", megabytes),
    "Train tok/s": ("tokens_per_second", number),
}


def _range_text(step: Any, spread: float) -> str:
    return MISSING if pd.isna(step) else number(100 * _share_of_range(step, spread), 0, sign=True)


STEPS_VIEW: dict[str, Any] = {
    "Mix": "mix",
    "K": ("k_more", "k_fewer", "{} → {}".format),
    "Of the range %": ("nll_difference", "nll_range", _range_text),
}


MEMORY_VIEW: View = {
    "Mix": "mix",
    "Of": ("quantity", lambda name: name.replace("_", " ")),
    "Points": "points",
    "Per layer": ("slope", "low", "high", lambda slope, low, high: f"{slope:,.0f} [{low:,.0f}, {high:,.0f}]"),
    "R²": ("r_squared", digits(3)),
    "p of x²": ("quadratic_p", p_text),
}
