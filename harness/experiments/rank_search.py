"""TPE's rank search against the full grid and random search, replayed on stored curves of rank → NLL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._sweep import made_table, of_first_seed
from floe_bench.harness.floe.rank_search import RankSearch, search
from floe_bench.harness.report.format import digits, percent
from floe_bench.harness.report.pairing import p_text
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.paired import Interval, mean_interval, wilson

METHOD = "grid_rank:step=1"

QUANTILES = (0.1, 0.9)

FIRST_BUDGET = 32
"""Trials after which a replayed search has most often tried every rank. Then the rest changes nothing."""


def cells(settings: Settings) -> list[Cell]:
    """Return the full curve of every rank, on every mix and seed."""
    return [Cell(method=METHOD, mix=mix, seed=seed) for seed in range(settings.seeds) for mix in settings.mixes]


def tables(results: Results) -> list[Table]:
    """Show what the searches found, the best so far against unique trainings, and the curves."""
    searched = [(record, curve, replayed(curve, results.settings)) for record, curve in _curves(results)]
    outcome = outcome_frame(searched, results.settings)
    progress = progress_frame(searched)
    curves = curves_frame([(record, curve) for record, curve, _ in searched])
    flatness = flatness_frame([(record, curve) for record, curve, _ in searched])
    trials, n = results.settings.search.trials, results.settings.study.repeated_searches
    notes = [
        f"{n} searches of {trials} trials each, by their seeds, replayed on the stored curve: a rank's value is one "
        "probe's, so they differ in the order of ranks only. Regret: NLL above the grid's best, nats per token.",
        "Random search draws ranks evenly, repeats free: exact, no simulation. To the optimum: unique trainings until "
        "the best rank is tried; of a search that never tries it, every rank, a lower bound of its cost. Random needs "
        "(R + 1) / 2 of R ranks. TPE's first ten trials are random.",
        "The optimum is the least of single probes: where the curve is flat beside its noise, finding it means little.",
    ]
    histories = [record.plan.searched.trials for record in results.records if record.plan.searched]
    if any(trial.value is None for trials_of_cell in histories for trial in trials_of_cell):
        notes.append("A rank that diverged is not on the curve. In a search it is as bad as the worst.")
    progress_notes = [
        f"Regret (nats) of the best rank so far after u unique trainings: mean, and {QUANTILES[0]:.0%} to "
        f"{QUANTILES[1]:.0%} quantiles over searches. A search that stopped earlier keeps its last value; reached: "
        "the share that trained u ranks within the trials. Random: exact.",
        "Shown for the first seed; the CSV has every seed.",
    ]
    flatness_notes = [
        "Range: largest less least NLL. Noise: residual standard deviation after seed and rank means, from two seeds "
        "on; p: Friedman's test that ranks differ (seeds are blocks), from two seeds on. One seed tells no noise.",
    ]
    return [
        made_table(
            "rank_search", "TPE against the full grid and random search", outcome, view(outcome, OUTCOME_VIEW), notes
        ),
        made_table(
            "rank_search_progress",
            "Best so far against unique trainings",
            progress,
            view(of_first_seed(progress), PROGRESS_VIEW),
            progress_notes,
        ),
        made_table(
            "rank_search_curve",
            "NLL against rank",
            curves,
            view(curves, CURVES_VIEW),
            ["Validation NLL (nats per token) of one short adaptation at each rank."],
        ),
        made_table(
            "rank_search_flatness",
            "How flat the curves are",
            flatness,
            view(flatness, FLATNESS_VIEW),
            flatness_notes,
        ),
    ]


def _curves(results: Results) -> list[tuple[Record, dict[int, float]]]:
    """Return each record's rank -> NLL, without the ranks that diverged."""
    return [
        (record, {trial.r: trial.value for trial in record.plan.searched.trials if trial.value is not None})
        for record in results.records
        if record.plan.searched
    ]


# --- searches on a curve --------------------------------------------------------------------------


def replayed(curve: Mapping[int, float], settings: Settings) -> list[RankSearch]:
    """Run study.repeated_searches TPE searches of search.trials trials on a curve, with seeds 0, 1, ...

    A search ends once it has tried every rank. Its trials are the first ones of a longer search.
    """
    return [_replayed(curve, settings.search.trials, seed) for seed in range(settings.study.repeated_searches)]


def _replayed(curve: Mapping[int, float], trials: int, seed: int) -> RankSearch:
    budget, worst = min(FIRST_BUDGET, trials), max(curve.values())
    while True:
        found = search(lambda r: curve.get(r, worst), min(curve), max(curve), budget, seed)
        if budget == trials or found.unique_trainings == len(curve):
            return found
        budget = min(2 * budget, trials)


def regrets(curve: Mapping[int, float], found: RankSearch) -> NDArray[np.float64]:
    """Return (R,): the regret of the best so far after 1 … R unique trainings.

    A search that stopped keeps its last. A rank that is not on the curve is as bad as the worst.
    """
    worst = max(curve.values())
    best = np.minimum.accumulate([curve.get(r, worst) for r in found.ranks])[: len(curve)] - min(curve.values())
    return np.pad(best, (0, len(curve) - len(best)), mode="edge")


def random_regrets(curve: Mapping[int, float], u: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the regrets of the best of u ranks drawn without repeats, ascending, and their probabilities.

    The j-th best of R is the best of the u drawn with probability C(R - j, u - 1) / C(R, u), j = 1 … R.
    """
    values = np.sort(list(curve.values()))
    total = len(values)
    chances = np.array([math.comb(total - j, u - 1) for j in range(1, total + 1)]) / math.comb(total, u)
    return values - values[0], chances


def random_found(n_ranks: int, trials: int) -> float:
    """Return the chance that one given rank of R is among `trials` even draws with repeats."""
    return 1 - (1 - 1 / n_ranks) ** trials


# --- frames ---------------------------------------------------------------------------------------

Searched = Sequence[tuple[Record, dict[int, float], list[RankSearch]]]


def outcome_frame(searched: Searched, settings: Settings) -> pd.DataFrame:
    """Return one row per mix and seed: what the searches found, beside random search on the same curve."""
    rows = []
    for record, curve, searches in searched:
        best = min(curve, key=lambda r: (curve[r], r))
        final = [found.value - curve[best] for found in searches]
        optimal = sum(regret == 0 for regret in final)
        found = wilson(optimal, len(searches), settings.study.confidence)
        reached = [_unique_to_best(curve, one) for one in searches]
        interval = _interval(reached, settings.study.confidence)
        rows.append(
            {
                "mix": record.cell.mix,
                "seed": record.cell.seed,
                "ranks": len(curve),
                "best_r": best,
                "best_nll": curve[best],
                "at_edge": best in (min(curve), max(curve)),
                "range": max(curve.values()) - curve[best],
                "searches": len(searches),
                "trials": settings.search.trials,
                "found": optimal / len(searches),
                "found_low": found.low,
                "found_high": found.high,
                "regret_mean": float(np.mean(final)),
                "regret_max": float(np.max(final)),
                "unique_mean": float(np.mean([one.unique_trainings for one in searches])),
                "unique_to_best": float(np.mean(reached)),
                "unique_to_best_low": interval.low,
                "unique_to_best_high": interval.high,
                "random_found": random_found(len(curve), settings.search.trials),
                "random_unique_mean": len(curve) * random_found(len(curve), settings.search.trials),
                "random_unique_to_best": (len(curve) + 1) / 2,
            }
        )
    return pd.DataFrame(rows)


def _unique_to_best(curve: Mapping[int, float], found: RankSearch) -> int:
    """Count the unique trainings until the least value came up. R where it did not."""
    hits = np.flatnonzero(regrets(curve, found) == 0)
    return int(hits[0]) + 1 if len(hits) else len(curve)


def _interval(values: Sequence[float], confidence: float) -> Interval:
    if len(values) < 2:
        return Interval(math.nan, math.nan)
    found = mean_interval(values, confidence=confidence)
    return Interval(found.low, found.high)


def progress_frame(searched: Searched) -> pd.DataFrame:
    """Return one row per mix, seed and number of unique trainings."""
    rows = []
    for record, curve, searches in searched:
        tpe = np.array([regrets(curve, found) for found in searches])
        for u in range(1, len(curve) + 1):
            values, chances = random_regrets(curve, u)
            rows.append(
                {
                    "mix": record.cell.mix,
                    "seed": record.cell.seed,
                    "unique_trainings": u,
                    "reached": sum(found.unique_trainings >= u for found in searches) / len(searches),
                    "tpe_mean": float(tpe[:, u - 1].mean()),
                    "random_mean": float(values @ chances),
                }
                | {f"tpe_q{100 * q:.0f}": _quantile(np.sort(tpe[:, u - 1]), None, q) for q in QUANTILES}
                | {f"random_q{100 * q:.0f}": _quantile(values, chances, q) for q in QUANTILES}
            )
    return pd.DataFrame(rows)


def _quantile(values: NDArray[np.float64], chances: NDArray[np.float64] | None, q: float) -> float:
    """Return the least value with at least q of the mass at or below it. `chances` None: all are equal."""
    mass = np.arange(1, len(values) + 1) / len(values) if chances is None else np.cumsum(chances)
    return float(values[np.flatnonzero(mass >= q - 1e-12)[0]])


def curves_frame(curves: Sequence[tuple[Record, dict[int, float]]]) -> pd.DataFrame:
    """Return one row per mix, seed and rank."""
    return pd.DataFrame(
        [
            {
                "mix": record.cell.mix,
                "seed": record.cell.seed,
                "r": r,
                "nll": nll,
                "above_best": nll - min(curve.values()),
            }
            for record, curve in curves
            for r, nll in sorted(curve.items())
        ]
    )


def flatness_frame(curves: Sequence[tuple[Record, dict[int, float]]]) -> pd.DataFrame:
    """Return one row per mix: the mean curve's range, the noise between seeds, and Friedman's test."""
    from scipy.stats import friedmanchisquare

    by_mix: dict[str, list[dict[int, float]]] = {}
    for record, curve in curves:
        by_mix.setdefault(record.cell.mix, []).append(curve)
    rows = []
    for mix, group in by_mix.items():
        ranks = sorted(set.intersection(*(set(curve) for curve in group)))
        values = np.array([[curve[r] for r in ranks] for curve in group])
        several = len(group) > 1 and len(ranks) > 2
        residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        freedom = (len(group) - 1) * (len(ranks) - 1)
        rows.append(
            {
                "mix": mix,
                "seeds": len(group),
                "ranks": len(ranks),
                "best_ranks": " ".join(str(min(curve, key=lambda r: (curve[r], r))) for curve in group),
                "range": float(np.ptp(values.mean(axis=0))),
                "noise_sd": float(np.sqrt((residual**2).sum() / freedom)) if several else None,
                "friedman_p": float(friedmanchisquare(*values.T).pvalue) if several and np.ptp(values) else None,
            }
        )
    return pd.DataFrame(rows)


# --- views ----------------------------------------------------------------------------------------


OUTCOME_VIEW: View = {
    "Mix": "mix",
    "Seed": "seed",
    "Grid's best r": ("best_r", "at_edge", lambda r, e: f"{r}{' (edge)' if e else ''}"),
    "NLL": ("best_nll", digits(4)),
    "Range": ("range", digits(4)),
    "TPE finds it %": (
        "found",
        "found_low",
        "found_high",
        lambda share, low, high: f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
    ),
    "random %": ("random_found", percent),
    "TPE regret, mean (most)": ("regret_mean", "regret_max", lambda mean, most: f"{mean:.2g} ({most:.2g})"),
    "Unique trainings of R": ("unique_mean", "ranks", lambda mean, n: f"{mean:.1f} of {n}"),
    "random": ("random_unique_mean", digits(1)),
    "To the optimum": (
        "unique_to_best",
        "unique_to_best_low",
        "unique_to_best_high",
        lambda mean, low, high: f"{mean:.1f}" + ("" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"),
    ),
    "random ": ("random_unique_to_best", digits(1)),
}


def _best_so_far(name: str) -> tuple[Any, ...]:
    parts = (f"{name}_{part}" for part in ("mean", *(f"q{100 * q:.0f}" for q in QUANTILES)))
    return *parts, lambda mean, least, most: f"{mean:.4f} [{least:.4f}, {most:.4f}]"


PROGRESS_VIEW: View = {
    "Mix": "mix",
    "Unique trainings": "unique_trainings",
    "Reached %": ("reached", percent),
    "TPE": _best_so_far("tpe"),
    "Random": _best_so_far("random"),
}


CURVES_VIEW: View = {
    "Mix": "mix",
    "Seed": "seed",
    "r": "r",
    "NLL": ("nll", digits(4)),
    "Above the best": ("above_best", digits(4)),
}


FLATNESS_VIEW: View = {
    "Mix": "mix",
    "Seeds": "seeds",
    "Best r of each": "best_ranks",
    "Range": ("range", digits(4)),
    "Noise": ("noise_sd", digits(4)),
    "p": ("friedman_p", p_text),
}
