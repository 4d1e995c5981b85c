"""Measure how far each layer's rank moves, between conditions and under resampling of G's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.experiments._gradients import Floats, ranks
from floe_bench.harness.floe.fisher import fisher_diagonal
from floe_bench.harness.report.format import MISSING, digits
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.trend import Trend, linear_trend

RESAMPLES = 1000
"""Enough for the ends of a 95 % band: 25 resamples lie beyond each."""

Measured = tuple[str, int, Floats, tuple[int, ...]]
"""Mix, seed, G (N, L) and picks of one condition. A mix's others are compared with its first."""


def spread_tables(measured: Sequence[Measured], settings: Settings) -> list[Table]:
    """Return a table with one row per layer, and one with a row per mix and source of spread."""
    by_mix = {mix: [one for one in measured if one[0] == mix] for mix in dict.fromkeys(one[0] for one in measured)}
    rows = {mix: layer_rows(mix, own, settings) for mix, own in by_mix.items()}
    layers = pd.DataFrame([row for own in rows.values() for row in own])
    depths = pd.DataFrame([row for own in rows.values() for row in depth_rows(own, settings)])
    nothing = ["No finished cell has layer scores yet."]
    title = "Each layer's Fisher score and rank"
    deep = "Rank spread of deep against shallow layers"
    return [
        Table(
            "ranking_stability_layers",
            title,
            layers,
            view(layers, LAYER_VIEW),
            _layer_notes(settings) if by_mix else nothing,
        ),
        Table(
            "ranking_stability_depth",
            deep,
            depths,
            view(depths, DEPTH_VIEW),
            _depth_notes(settings) if by_mix else nothing,
        ),
    ]


def layer_rows(mix: str, measured: Sequence[Measured], settings: Settings) -> list[dict[str, Any]]:
    """Return one row per layer of a mix.

    `share` is of the sum of scores, and rank 1 is the highest. The bootstrap gives a band to the first condition's
    share and rank. Over all conditions there are the rank's spread and the fraction in which the layer is picked.
    """
    _, _, G, _ = measured[0]
    n_layers, tail = G.shape[1], (1 - settings.study.confidence) / 2
    scores = fisher_diagonal(G)
    resampled = _resampled_scores(G)
    shares = resampled / resampled.sum(axis=1, keepdims=True)
    resampled_ranks = ranks(resampled)
    across = np.array([ranks(fisher_diagonal(other)) for _, _, other, _ in measured])
    picked = np.mean([np.isin(np.arange(n_layers), chosen) for *_, chosen in measured], axis=0)
    bands = np.quantile(shares, (tail, 1 - tail), axis=0), np.quantile(resampled_ranks, (tail, 1 - tail), axis=0)
    return [
        {
            "mix": mix,
            "layer": k,
            "half": "shallow" if k < n_layers // 2 else "deep",
            "share": scores[k] / scores.sum(),
            "share_low": bands[0][0][k],
            "share_high": bands[0][1][k],
            "rank": int(ranks(scores)[k]),
            "rank_low": bands[1][0][k],
            "rank_high": bands[1][1][k],
            "rank_sd_resampled": resampled_ranks[:, k].std(ddof=1),
            "conditions": len(measured),
            "rank_least": int(across[:, k].min()),
            "rank_most": int(across[:, k].max()),
            "rank_sd_conditions": across[:, k].std(ddof=1) if len(measured) > 1 else None,
            "picked": picked[k],
        }
        for k in range(n_layers)
    ]


def depth_rows(layers: Sequence[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Return one row per source of spread: the mean rank spread of each half of one mix's layers.

    The difference of the two has an interval with layers as the units.
    """
    deep = np.array([row["half"] == "deep" for row in layers], dtype=float)
    found = []
    for source in ("conditions", "resampled"):
        spread = np.array([row[f"rank_sd_{source}"] for row in layers], dtype=float)
        if len(spread) < 3 or np.isnan(spread).any():
            continue
        # The slope on a 0/1 regressor is the difference of the two means, its interval Student's with pooled variance.
        difference = linear_trend(deep, spread, settings.study.confidence)
        found.append(
            {
                "mix": layers[0]["mix"],
                "spread_over": source,
                "layers": len(spread),
                "shallow": spread[deep == 0].mean(),
                "deep": spread[deep == 1].mean(),
                "difference": difference.slope,
                "low": difference.low,
                "high": difference.high,
                "verdict": _verdict(difference),
            }
        )
    return found


def _resampled_scores(G: Floats) -> Floats:
    """Return the diagonal Fisher of `RESAMPLES` bootstrap samples of G's rows, (RESAMPLES, L)."""
    n = len(G)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return weights @ np.square(G) / n


def _verdict(difference: Trend) -> str:
    if difference.low > 0:
        return "deep layers less stable"
    return "deep layers more stable" if difference.high < 0 else "no difference seen"


LAYER_VIEW: View = {
    "Mix": "mix",
    "Layer": "layer",
    "Half": "half",
    "Score, % of all": lambda frame: _band(frame, "share", 100, 1),
    "Rank": lambda frame: _band(frame, "rank", 1, 0),
    "Ranks over conditions": ("rank_least", "rank_most", lambda low, high: f"{low}–{high}"),
    "Rank sd, resampled": ("rank_sd_resampled", digits(2)),
    "Rank sd, conditions": ("rank_sd_conditions", digits(2)),
    "Picked in": ("picked", "conditions", lambda p, n: f"{round(p * n)} of {n}"),
}


def _band(frame: pd.DataFrame, name: str, scale: float, digits: int) -> list[str]:
    parts = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return [f"{scale * x:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]" for x, low, high in parts]


def _layer_notes(settings: Settings) -> list[str]:
    return [
        "Score and rank (1 the highest) of the settings' own sample and seed 0, with the "
        f"{settings.study.confidence:.0%} band of {RESAMPLES} bootstrap samples of G's rows: the pilot stays, so what "
        "another pilot would change is in the columns over conditions (all pilot fractions, lengths, parts and seeds "
        "of the mix). Layers count from 0."
    ]


DEPTH_VIEW: View = {
    "Mix": "mix",
    "Rank sd over": ("spread_over", lambda source: "resampled rows" if source == "resampled" else source),
    "Layers": "layers",
    "Shallow half": ("shallow", digits(2)),
    "Deep half": ("deep", digits(2)),
    "Deep - shallow": (
        "difference",
        "low",
        "high",
        lambda mean, low, high: MISSING if pd.isna(mean) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
    ),
    "Verdict": "verdict",
}


def _depth_notes(settings: Settings) -> list[str]:
    return [
        f"Mean over the layers of each half of the sd of a layer's rank; the difference with its "
        f"{settings.study.confidence:.0%} interval, Student's with layers as the units and without correction for "
        "the number of rows. Layers of one model are not independent, and few layers see only large differences.",
        "The first and last ranks have room on one side only, so layers there look more stable whatever their depth: "
        "read it beside the ranks in ranking_stability_layers.",
    ]
