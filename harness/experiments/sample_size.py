"""How many samples the Fisher estimate needs: layer rankings from random subsets of the stored gradients G."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._gradients import Floats, picks, scored, top
from floe_bench.harness.floe.fisher import fisher_diagonal
from floe_bench.harness.report.format import digits, number
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.ranks import jaccard, spearman

SUBSETS = 100
"""Random subsets of each size. A mean over them is known to within a tenth of their spread."""

MEASURES = ("spearman_full", "jaccard_top_k", "jaccard_picks", "spearman_halves")


def cells(settings: Settings) -> list[Cell]:
    """Return the layer scores of every mix and seed. Only the pilots are trained."""
    return [Cell(method="layer_scores", mix=mix, seed=seed) for seed in range(settings.seeds) for mix in settings.mixes]


def tables(results: Results) -> list[Table]:
    """Return one row per mix and sample size n, over random subsets and seeds."""
    samples: dict[tuple[str, int], list[dict[str, float]]] = {}
    seeds: dict[str, int] = {}
    for cell in results.cells:
        found = scored(results, cell)
        if found is None:
            continue
        _, G, T = found
        seeds[cell.mix] = seeds.get(cell.mix, 0) + 1
        for n in _sizes(len(G), results.settings):
            samples.setdefault((cell.mix, n), []).extend(subset_agreement(G, T, n, results.settings))
    frame = pd.DataFrame(
        [
            {"mix": mix, "n": n, "seeds": seeds[mix], "subsets": len(rows)}
            | _summary(pd.DataFrame(rows), results.settings.study.confidence)
            for (mix, n), rows in sorted(
                samples.items(), key=lambda item: (results.settings.mixes.index(item[0][0]), item[0][1])
            )
        ]
    )
    return [Table("sample_size", "Sample size of the Fisher estimate", frame, view(frame, VIEW), _notes(results))]


def subset_agreement(G: Floats, T: Floats, n: int, settings: Settings) -> list[dict[str, float]]:
    """Return how random subsets of n rows of G (N, L), without replacement, rank and pick layers.

    spearman_full, jaccard_top_k and jaccard_picks are against all N rows, which hold the subset. spearman_halves is
    against n other rows, NaN where N < 2 n. relative_error is the standard error of I_kk as a share of it, median over
    layers.
    """
    everything = fisher_diagonal(G)
    full_top = top(everything, settings.selection)
    full_picks = picks(everything, T, settings.selection)
    found = []
    for subset in range(SUBSETS):
        order = np.random.default_rng([n, subset]).permutation(len(G))
        squared = np.square(G[order[:n]])
        scores = squared.mean(axis=0)
        positive = scores > 0
        error = squared.std(axis=0, ddof=1)[positive] / scores[positive] / np.sqrt(n) if n > 1 else np.array([])
        found.append(
            {
                "spearman_full": spearman(scores, everything),
                "jaccard_top_k": jaccard(top(scores, settings.selection), full_top),
                "jaccard_picks": jaccard(picks(scores, T, settings.selection), full_picks),
                "spearman_halves": spearman(scores, fisher_diagonal(G[order[n : 2 * n]]))
                if 2 * n <= len(G)
                else np.nan,
                "relative_error": float(np.median(error)) if len(error) else np.nan,
            }
        )
    return found


def _sizes(N: int, settings: Settings) -> list[int]:
    """Return the sizes asked for that N rows allow, and half of N for the split-half reliability."""
    return sorted({n for n in (*settings.study.sample_sizes, N // 2) if 1 <= n <= N})


def _summary(rows: pd.DataFrame, confidence: float) -> dict[str, Any]:
    tail = (1 - confidence) / 2
    found: dict[str, Any] = {}
    for measure in MEASURES:
        found[measure] = rows[measure].mean()
        found[f"{measure}_low"] = rows[measure].quantile(tail)
        found[f"{measure}_high"] = rows[measure].quantile(1 - tail)
    return found | {"relative_error": rows["relative_error"].mean()}


def _range_text(mean: float, low: float, high: float) -> str:
    return number(mean, 2) if pd.isna(mean) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


TITLES = ("ρ to all N", "Top-K Jaccard", "Picks' Jaccard", "ρ of disjoint samples")
VIEW: View = (
    {"Mix": "mix", "n": "n", "Seeds": "seeds"}
    | {title: (name, f"{name}_low", f"{name}_high", _range_text) for title, name in zip(TITLES, MEASURES, strict=True)}
    | {"Error of a score": ("relative_error", digits(2))}
)


def _notes(results: Results) -> list[str]:
    confidence = results.settings.study.confidence
    lines = [
        f"ρ: Spearman's, of the diagonal Fisher. Mean over {SUBSETS} random subsets a seed, with the range of their "
        f"central {confidence:.0%}: the spread of one such estimate, not the error of the mean.",
        "A subset is a part of the N rows it is held against, so the first three columns end at 1 for n = N whatever "
        "the noise. ρ of disjoint samples has no such bias; at n = N/2 it is the split-half reliability.",
        "Error of a score: the standard error of I_kk as a share of I_kk, median over layers. Subsets share one pilot "
        "a seed: what another pilot would change is not in here.",
    ]
    if not any(results.find(cell) for cell in results.cells):
        return ["No finished cell has layer scores yet."]
    return lines
