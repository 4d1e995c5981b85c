"""What scoring costs as the model grows deeper: seconds of Fisher and Taylor scoring over L (claim: O(L · |θ|))."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record, Stage
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.errors import UsageError
from floe_bench.harness.experiments._sweep import grouped, made_table
from floe_bench.harness.report.format import count, digits, number
from floe_bench.harness.report.pairing import p_text
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.trend import linear_trend

METHOD = "layer_scores:scores=fisher+taylor+gradient_norm"
VARIED = "model.config.num_hidden_layers"

SCORERS = {"fisher_gradients": "Fisher", "gradient_norm": "gradient norm", "taylor": "Taylor"}

REPEATS = 3
"""Least number of seeds. Other work on the machine disturbs the least of several timings least."""

ROWS = {"data.train_rows": 32, "data.calibration_rows": 32, "data.pretrain_rows": 8, "data.validation_rows": 8}
"""Enough for a few batches. Only the cost per token is compared."""


def cells(settings: Settings) -> list[Cell]:
    """Return the scores of a model of the profile's width with random weights, at each depth, over seeds.

    Raises UsageError with a model path. It would build that path's configuration, not the depth asked for.
    """
    if settings.model.path is not None:
        raise UsageError("scoring_cost builds models of several depths with random weights: leave --model-path out")
    mix = settings.mixes[0]
    rows = {name: min(most, _limit(settings, name) or most) for name, most in ROWS.items()}
    fixed: dict[str, str | int | float] = {
        "model.source": "random",
        "model.prompt_format": "alpaca",
        "train.epochs": 1.0,
        "eval.evals": "validation_nll",
        "eval.primary": "validation_nll",
        "eval.nll_mixes": mix,
        **rows,
    }
    return [
        Cell(method=METHOD, mix=mix, seed=seed, varied=((VARIED, depth), *fixed.items()))
        for seed in range(max(REPEATS, settings.seeds))
        for depth in settings.study.depths
    ]


def _limit(settings: Settings, name: str) -> int | None:
    return getattr(settings.data, name.removeprefix("data."))


def tables(results: Results) -> list[Table]:
    """Show cost by depth, and its growth."""
    frame = cost_frame(results)
    trends = trend_frame(frame, results.settings.study.confidence)
    notes = [
        "Milliseconds per token, the least over seeds; Taylor's text is the same for every seed, so it is measured "
        "once. Random weights of the profile's width; weights do not change what scoring costs. × : over the least "
        "deep model, beside what O(L) and O(L²) would give.",
        "The diagonal and the full layer Fisher come from the same G: N · L or N · L² products in numpy, nothing "
        "beside the backward passes. Full parameter Fisher: the bytes in float32 of the (L · |θ|)² matrix that "
        "O(L² · |θ|²) would have to fill, |θ| being one layer's weights.",
    ]
    trend_notes = [
        "Exponent: slope of log time over log L, with its interval; 1 is O(L), 2 is O(L²). Below 1: the part that "
        "does not grow (embedding, vocabulary, calls) is in it. p: of an L² term beside time = a + b L, small where "
        "the growth is not linear.",
        "Few depths, one machine, random weights: it says how time grows, not what scoring costs on real data.",
    ]
    return [
        made_table("scoring_cost", "Cost of scoring over depth", frame, view(frame, COST_VIEW), notes),
        made_table("scoring_cost_trend", "How scoring grows", trends, view(trends, TREND_VIEW), trend_notes),
    ]


def cost_frame(results: Results) -> pd.DataFrame:
    """Return one row per scorer and depth.

    It has seconds per token (least over seeds), and ratios to the least deep model.
    """
    by_depth = dict(sorted(grouped(results, _depth).items()))
    theta = _layer_parameters({depth: records[0] for depth, records in by_depth.items()})
    rows: list[dict[str, Any]] = []
    for scorer in SCORERS:
        least: tuple[int, float] | None = None
        for depth, records in by_depth.items():
            timed = [
                stage.cost.seconds / stage.cost.tokens
                for record in records
                for stage in results.stages(record)
                if _is_measure(stage, scorer) and stage.cost.tokens
            ]
            if not timed:
                continue
            least = least or (depth, min(timed))
            rows.append(
                {
                    "scorer": scorer,
                    "depth": depth,
                    "seconds_per_token": min(timed),
                    "timings": len(set(timed)),
                    "ratio": min(timed) / least[1],
                    "ratio_linear": depth / least[0],
                    "ratio_quadratic": (depth / least[0]) ** 2,
                    "base_parameters": records[0].plan.base_parameters,
                    "full_fisher_bytes": 4 * (depth * theta) ** 2 if theta else None,
                }
            )
    return pd.DataFrame(rows)


def trend_frame(frame: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Return one row per scorer measured at three depths or more.

    It has the exponent of L, and whether a line fits.
    """
    rows = []
    for scorer in SCORERS if len(frame) else ():
        own = frame.loc[frame["scorer"] == scorer]
        if own["depth"].nunique() < 3:
            continue
        power = linear_trend(own["depth"].map(math.log), own["seconds_per_token"].map(math.log), confidence)
        line = linear_trend(own["depth"], own["seconds_per_token"], confidence)
        rows.append(
            {
                "scorer": scorer,
                "depths": len(own),
                "exponent": power.slope,
                "low": power.low,
                "high": power.high,
                "line_r_squared": line.r_squared,
                "line_quadratic_p": line.quadratic_p,
            }
        )
    return pd.DataFrame(rows)


def _depth(record: Record) -> int:
    return record.plan.n_layers


def _is_measure(stage: Stage, scorer: str) -> bool:
    return stage.kind == "measure" and stage.identity["scorer"].rpartition(".")[2] == scorer


def _layer_parameters(records: dict[int, Record]) -> int | None:
    """Return |θ| of one layer, from two depths' totals."""
    if len(records) < 2:
        return None
    (low, first), *_, (high, last) = records.items()
    return (last.plan.base_parameters - first.plan.base_parameters) // (high - low)


COST_VIEW: View = {
    "Scorer": ("scorer", SCORERS.get),
    "L": "depth",
    "Parameters": ("base_parameters", count),
    "ms per token": ("seconds_per_token", lambda x: f"{1e3 * x:.3g}"),
    "Timings": "timings",
    "×": ("ratio", digits(2)),
    "O(L) ×": ("ratio_linear", digits(2)),
    "O(L²) ×": ("ratio_quadratic", digits(2)),
    "Full parameter Fisher GB": (
        "full_fisher_bytes",
        lambda size: number(None if size is None else size / 1e9, 1),
    ),
}


TREND_VIEW: View = {
    "Scorer": ("scorer", SCORERS.get),
    "Depths": "depths",
    "Exponent of L": ("exponent", "low", "high", lambda slope, low, high: f"{slope:.2f} [{low:.2f}, {high:.2f}]"),
    "R² of a line": ("line_r_squared", digits(3)),
    "p of L²": ("line_quadratic_p", p_text),
}
