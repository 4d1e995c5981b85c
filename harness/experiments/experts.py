"""How many experts: NLL, routing, latency; and experts allotted by Fisher score against as many evenly spread."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._contrasts import Contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.experiments._sweep import grouped, made_table, mean, same_seeds
from floe_bench.harness.report.format import MISSING, count, digits
from floe_bench.harness.report.pairing import p_text
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.trend import linear_trend

BASE, UNIFORM, ALLOTTED = "base", "hydralora", "allotted_experts"
VARIED = "adapter.num_experts"
LATENCIES = ("ms_per_token", "ms_per_token_q1", "ms_per_token_q3")


def cells(settings: Settings) -> list[Cell]:
    """Return MoE-LoRA on every layer with each M, the base model, and the allotted experts at the profile's M.

    Each is scored by the primary evaluation, the validation NLL, the router's statistics and latency.
    """
    evals = ("eval.evals", ",".join(dict.fromkeys((settings.eval.primary, "validation_nll", "router", "latency"))))
    own = settings.adapter.num_experts
    methods = [
        (BASE, (evals,)),
        *((UNIFORM, ((VARIED, m), evals)) for m in sorted({*settings.study.experts, own})),
        (ALLOTTED, ((VARIED, own), evals)),
    ]
    return [
        Cell(method=method, mix=mix, seed=seed, varied=varied)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method, varied in methods
    ]


def tables(results: Results) -> list[Table]:
    """Show scores over M, latency over M, routing by layer, and the allotment."""
    scores, latency, routing, allotted = (
        scores_frame(results),
        latency_frame(results),
        routing_frame(results),
        allotted_frame(results),
    )
    shared = contrast_view(1 - results.settings.study.confidence)
    score_notes = [
        "M experts on every layer at one rank, so parameters grow with M: a gain of a larger M may be the parameters'. "
        "lora_alpha and r are the same for all.",
        *contrast_notes(results, "the smallest M"),
    ]
    latency_notes = [
        "Median milliseconds per token of reading the same rows, with quartiles; over mixes and seeds the median of "
        "each. Of base: over the base model's median. Measured once a model, the base first: on a shared or cold "
        "machine differences within the quartiles may be its load.",
        _latency_slope(results),
    ]
    routing_notes = [
        "Mean over a layer's modules, mixes and seeds. Entropy: of the gates, over ln M, so 1 is even for every token. "
        "Largest load: M times the largest share of one expert, so 1 is even and M is collapse. M = 1 routes nothing.",
        "Even loads with an entropy near 1 mean that experts are averaged, not chosen. Read on few validation rows.",
    ]
    allotted_notes = [
        "As many experts in all, and so as many parameters: M on every layer, against one on every layer and the rest "
        "by Fisher score. The pilot that gives the scores is charged to the allotment (planning).",
        *contrast_notes(results, "the even spread"),
    ]
    return [
        made_table("experts", "How many experts", scores, view(scores, SCORES_VIEW | shared), score_notes),
        made_table("experts_latency", "Latency over experts", latency, view(latency, LATENCY_VIEW), latency_notes),
        made_table("experts_routing", "Routing by layer", routing, view(routing, ROUTING_VIEW), routing_notes),
        made_table(
            "experts_allotted",
            "Experts by Fisher score, against evenly spread",
            allotted,
            view(allotted, ALLOTTED_VIEW | shared),
            allotted_notes,
        ),
    ]


def scores_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix and M, against the smallest M."""
    groups = _uniform(results)
    least = {mix: min(m for other, m in groups if other == mix) for mix, _ in groups}
    return contrast_frame(
        results,
        [
            Contrast(
                {
                    "mix": mix,
                    "num_experts": m,
                    "entropy": mean(_metric(record, "router", "entropy") for record in records) if m > 1 else None,
                    "max_gate": mean(_metric(record, "router", "max_gate") for record in records) if m > 1 else None,
                },
                records,
                same_seeds(records, groups[mix, least[mix]]),
            )
            for (mix, m), records in groups.items()
        ],
    )


def latency_frame(results: Results) -> pd.DataFrame:
    """Return ms per token over mixes and seeds: one row for the base model (0 experts), one per M."""
    groups = {m: records for m, records in grouped(results, _experts).items() if m is not None}
    rows = []
    for m, records in sorted(groups.items()):
        # The base model is one for all mixes and seeds, and was measured once.
        once = {record.stages.evaluations["latency"]: record for record in records if "latency" in record.scores}
        measured = [record.scores["latency"].metrics for record in once.values()]
        if measured:
            rows.append(
                {"num_experts": m, "models": len(measured)}
                | {name: float(np.median([metrics[name] for metrics in measured])) for name in LATENCIES}
                | {"trainable_parameters": mean(record.plan.trainable_parameters for record in records)}
            )
    base = next((row["ms_per_token"] for row in rows if row["num_experts"] == 0), None)
    return pd.DataFrame([row | {"of_base": row["ms_per_token"] / base if base else None} for row in rows])


def routing_frame(results: Results) -> pd.DataFrame:
    """Return one row per M > 1 and adapted layer: entropy over ln M, and M times the largest mean gate."""
    lines: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for record in results.records:
        m = _experts(record)
        if record.cell.method != UNIFORM or not m or m == 1 or "router" not in record.scores:
            continue
        for module, gates in results.items(record, "router").groupby("module"):
            found = re.search(r"\.(\d+)\.", str(module))  # whatever the family calls its list of layers
            if found:
                load = (gates["entropy"].tolist()[0] / math.log(m), m * max(gates["mean_gate"].tolist()))
                lines.setdefault((m, int(found[1])), []).append(load)
    return pd.DataFrame(
        [
            {
                "num_experts": m,
                "layer": layer,
                "modules": len(loads),
                "entropy_share": float(np.mean([entropy for entropy, _ in loads])),
                "max_load": float(np.mean([load for _, load in loads])),
                "max_load_most": float(np.max([load for _, load in loads])),
            }
            for (m, layer), loads in sorted(lines.items())
        ]
    )


def allotted_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix: the allotment against the even spread at equal experts in all."""
    uniform = _uniform(results)
    groups = grouped(results, lambda record: (record.cell.mix, record.cell.method))
    rows = []
    for (mix, method), records in groups.items():
        if method != ALLOTTED:
            continue
        even = uniform.get((mix, results.settings.adapter.num_experts), [])
        experts = dict.fromkeys(" ".join(map(str, record.plan.details["experts"])) for record in records)
        columns = {
            "mix": mix,
            "experts": " | ".join(experts),
            "total": mean(sum(record.plan.details["experts"]) for record in records),
            "even_trainable": mean(record.plan.trainable_parameters for record in even),
            "planning_seconds": mean(record.planning_cost.seconds for record in records),
        }
        rows.append(Contrast(columns, records, same_seeds(records, even)))
    return contrast_frame(results, rows)


def _uniform(results: Results) -> dict[tuple[str, int], list[Record]]:
    """Return (mix, M) -> MoE-LoRA on every layer, over seeds."""
    groups = grouped(results, lambda record: (record.cell.mix, record.cell.method, _experts(record)))
    return {(mix, m): records for (mix, method, m), records in groups.items() if method == UNIFORM and m is not None}


def _experts(record: Record) -> int | None:
    """Return M of the even spread, 0 for the base model, None for the allotment."""
    return {BASE: 0, UNIFORM: record.settings.adapter.num_experts}.get(record.cell.method)


def _metric(record: Record, evaluation: str, name: str) -> float | None:
    score = record.scores.get(evaluation)
    return score.metrics.get(name) if score else None


def _latency_slope(results: Results) -> str:
    """Say the slope of latency over M in a sentence."""
    points = [
        (m, latency)
        for record in results.records
        if (m := _experts(record)) and (latency := _metric(record, "latency", "ms_per_token")) is not None
    ]
    if len(points) < 3 or len({m for m, _ in points}) < 2:
        return "Too few models for a line of latency over M."
    numbers, latencies = zip(*points, strict=True)
    trend = linear_trend(numbers, latencies, results.settings.study.confidence)
    return (
        f"Line over M ≥ 1 ({len(points)} models): {trend.slope:+.3g} ms per token and expert "
        f"[{trend.low:+.3g}, {trend.high:+.3g}], R² {trend.r_squared:.2f}, p of an x² term {p_text(trend.quadratic_p)}."
    )


SCORES_VIEW: dict[str, Any] = {
    "Mix": "mix",
    "M": "num_experts",
    "Gate entropy, nats": ("entropy", digits(3)),
    "Largest gate": ("max_gate", digits(3)),
}


LATENCY_VIEW: View = {
    "M": ("num_experts", lambda m: str(m) if m else "base"),
    "Models": "models",
    "ms per token": (*LATENCIES, "{:.4g} [{:.4g}, {:.4g}]".format),
    "Of base": ("of_base", lambda x: MISSING if pd.isna(x) else f"{x:.2f}"),
    "Trainable": ("trainable_parameters", count),
}


ROUTING_VIEW: View = {
    "M": "num_experts",
    "Layer": "layer",
    "Modules": "modules",
    "Entropy / ln M": ("entropy_share", digits(3)),
    "Largest load": ("max_load", digits(2)),
    "of any module": ("max_load_most", digits(2)),
}


ALLOTTED_VIEW: dict[str, Any] = {
    "Mix": "mix",
    "Experts by layer": "experts",
    "In all": ("total", count),
    "Trainable, even": ("even_trainable", count),
    "Planning s": ("planning_seconds", digits(1)),
}
