"""Methods at FLoE's number of trainable parameters: the rank of each solved to match it."""

from __future__ import annotations

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._comparison import comparison
from floe_bench.harness.experiments._shared import nll_of
from floe_bench.harness.report.format import count, digits, percent
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings

MATCHED = ("lora", "hydralora", "random_layers", "topk_layers")
REFERENCE = "floe"


def cells(settings: Settings) -> list[Cell]:
    """Return FLoE, and each other method with `match=floe`, on every mix and seed."""
    methods = [REFERENCE, *(f"{method}:match={REFERENCE}" for method in MATCHED)]
    return [
        Cell(method=method, mix=mix, seed=seed)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method in methods
    ]


def tables(results: Results) -> list[Table]:
    """Show how near each match is, and compare the methods with FLoE."""
    frame = pd.DataFrame(
        [
            {
                "mix": record.cell.mix,
                "method": record.cell.method,
                "seed": record.cell.seed,
                "layers": len(record.plan.layers),
                "r": record.plan.r,
                "trainable_parameters": record.plan.trainable_parameters,
                "ratio": record.plan.matched.ratio if record.plan.matched else 1.0,
                "within_tolerance": record.plan.matched.within_tolerance if record.plan.matched else True,
                "nll": nll_of(record),
            }
            for record in results.records
        ]
    )
    notes = [
        "lora_alpha stays as set while r varies. The search that gave FLoE its rank is charged to FLoE alone.",
        "Not within 2 %: no integer rank comes that close; the nearest is taken.",
    ]
    matched = Table("parameter_matched", "Parameters matched to FLoE's", frame, view(frame, VIEW), notes)
    title = "At FLoE's trainable parameters, paired"
    return [matched, comparison("parameter_matched_comparison", title, results, REFERENCE)]


VIEW: View = {
    "Mix": "mix",
    "Method": "method",
    "Seed": "seed",
    "Layers": "layers",
    "r": "r",
    "Trainable": ("trainable_parameters", count),
    "% of FLoE's": ("ratio", percent),
    "Within 2 %": ("within_tolerance", lambda near: "yes" if near else "no"),
    "NLL": ("nll", digits(3)),
}
