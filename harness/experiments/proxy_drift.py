"""A selection sample that drifts: a growing share of its rows from another mix, and how picks and NLL move."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._contrasts import contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.experiments._gradients import top
from floe_bench.harness.registry import find
from floe_bench.harness.report.format import digits, number
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.ranks import jaccard, kendall, spearman
from floe_bench.harness.stats.trend import linear_trend

AGREEMENT = ("spearman", "kendall", "jaccard_top_k", "jaccard_picks")


def cells(settings: Settings) -> list[Cell]:
    """Return FLoE's layers picked on every drifted sample, for every mix and seed."""
    return [
        cell
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for cell in _drifts(mix, seed, settings).values()
    ]


def _drifts(mix: str, seed: int, settings: Settings) -> dict[float, Cell]:
    """Return share of foreign rows -> cell, 0 first. There is only 0 where no other mix is given."""
    drifts = {0.0: Cell(method="floe_layers", mix=mix, seed=seed)}
    other = _other(mix, settings)
    for share in sorted(settings.study.drift_shares):
        if share and other != mix:
            method = f"floe_layers:drift_to={other}:drift={share}"
            drifts[share] = Cell(method=method, mix=mix, seed=seed)
    return drifts


def _other(mix: str, settings: Settings) -> str:
    """Return the mix that foreign rows come from: the next one, and after the last the first."""
    mixes = [other for other in settings.mixes if other == mix or not _overlap(mix, other)]
    return mixes[(mixes.index(mix) + 1) % len(mixes)]


def _overlap(mix: str, other: str) -> bool:
    """Return whether one of the two is made of the other's rows."""
    return mix in _parts(other) or other in _parts(mix)


def _parts(mix: str) -> tuple[str, ...]:
    return getattr(find("mix", mix).load(), "PARTS", ())


def tables(results: Results) -> list[Table]:
    """Compare each share with no drift, one row per mix and share, and show the trend over the shares."""
    settings = results.settings
    rows = []
    for mix in settings.mixes:
        by_seed = [_drifts(mix, seed, settings) for seed in range(settings.seeds)]
        undrifted = [drifts[0.0] for drifts in by_seed]
        for share in by_seed[0]:
            drifted = [drifts[share] for drifts in by_seed]
            pairs = [(results.find(a), results.find(b)) for a, b in zip(drifted, undrifted, strict=True)]
            agreement = _agreement([(a, b) for a, b in pairs if a and b])
            rows.append(
                contrast(results, drifted, undrifted, mix=mix, foreign=_other(mix, settings), share=share, **agreement)
            )
    frame = contrast_frame(results, rows)
    notes = [
        *contrast_notes(results, "the sample without foreign rows"),
        "Where the other mix has too few rows for a share, the whole sample is smaller.",
        "ρ, τ, Jaccard: Fisher ranking, top-K layers and picks against those of share 0, means over seeds. Pilot and "
        "Fisher sample are drawn from the drifted sample; training and evaluation stay on the mix.",
        "The foreign rows of a share are among those of the next: neighbouring rows are no independent tries.",
    ]
    if frame.empty:
        notes = ["No finished cell yet."]
    elif len(settings.mixes) == 1:
        notes.append("One mix: there is none to drift to.")
    drift = Table("proxy_drift", "A drifting selection sample", frame, view(frame, _columns(settings)), notes)
    return [drift, _trend(frame, settings)]


def _agreement(pairs: list[tuple[Record, Record]]) -> dict[str, float | None]:
    """Return means over seeds of how far two selections agree. None without any."""
    rows = [_agree(a, b) for a, b in pairs]
    return {name: fmean(row[name] for row in rows) if rows else None for name in AGREEMENT}


def _agree(a: Record, b: Record) -> dict[str, float]:
    scores, others = (np.asarray(record.plan.scores["fisher"]) for record in (a, b))
    selection = a.settings.selection
    return {
        "spearman": spearman(scores, others),
        "kendall": kendall(scores, others),
        "jaccard_top_k": jaccard(top(scores, selection), top(others, selection)),
        "jaccard_picks": jaccard(a.plan.layers, b.plan.layers),
    }


def _trend(frame: pd.DataFrame, settings: Settings) -> Table:
    """Show per mix the least share with a significantly worse NLL, and the slope of NLL over the share."""
    title = "How far the selection sample may drift"
    alpha = 1 - settings.study.confidence
    everything: list[dict[Any, Any]] = frame.to_dict("records")
    rows: list[dict[str, Any]] = []
    for mix in settings.mixes:
        own = [row for row in everything if row["mix"] == mix and not pd.isna(row["nll"])]
        if not own:
            continue
        significant = [row for row in own if not pd.isna(row["nll_p"]) and row["nll_p"] < alpha]
        worse = [row["share"] for row in significant if row["nll_difference"] > 0]
        moved = [row["share"] for row in own if not pd.isna(row["jaccard_picks"]) and row["jaccard_picks"] < 1]
        trend = None
        if len(own) > 2:
            shares, nlls = ([row[name] for row in own] for name in ("share", "nll"))
            trend = linear_trend(shares, nlls, settings.study.confidence)
        rows.append(
            {
                "mix": mix,
                "foreign": own[0]["foreign"],
                "shares": len(own),
                "first_share_with_other_picks": min(moved, default=None),
                "first_share_significantly_worse": min(worse, default=None),
                "nll_slope": trend.slope if trend else None,
                "nll_slope_low": trend.low if trend else None,
                "nll_slope_high": trend.high if trend else None,
            }
        )
    trends = pd.DataFrame(rows)
    notes = [
        "Slope: of NLL over the foreign share, by least squares over the shares' means; NLL can only move where the "
        "picks do, in steps, so a line is a summary and its interval a rough one.",
        "Never: at no share tried. That NLL is not significantly worse does not show that drift is harmless.",
    ]
    return Table(
        "proxy_drift_limit", title, trends, view(trends, TREND_VIEW), notes if rows else ["No finished cell yet."]
    )


def _first_share(value: float | None) -> str:
    return "never" if value is None or pd.isna(value) else f"{value:.0%}"


def _slope(slope: float | None, low: float | None, high: float | None) -> str:
    return number(slope) if slope is None or pd.isna(slope) else f"{slope:+.4f} [{low:+.4f}, {high:+.4f}]"


TREND_VIEW: View = {
    "Mix": "mix",
    "Foreign rows from": "foreign",
    "Picks first differ at": ("first_share_with_other_picks", _first_share),
    "NLL first worse at": ("first_share_significantly_worse", _first_share),
    "Slope, nats": ("nll_slope", "nll_slope_low", "nll_slope_high", _slope),
}


def _columns(settings: Settings) -> View:
    titles = zip(("ρ", "τ", "Top-K Jaccard", "Picks' Jaccard"), AGREEMENT, strict=True)
    return (
        {"Mix": "mix", "Foreign rows from": "foreign", "Share": ("share", lambda share: f"{share:.0%}")}
        | {title: (name, digits(2)) for title, name in titles}
        | contrast_view(1 - settings.study.confidence)
    )
