"""Layer rankings across pilot fractions and lengths, disjoint samples, seeds and mixes; and training by fraction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._contrasts import contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.experiments._gradients import Floats, picks, scored, top
from floe_bench.harness.experiments._layer_spread import spread_tables
from floe_bench.harness.floe.fisher import fisher_diagonal
from floe_bench.harness.report.format import MISSING, digits, number
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.ranks import jaccard, kendall, spearman

AGREEMENT = ("spearman", "kendall", "jaccard_top_k", "jaccard_picks", "spearman_shallow", "spearman_deep")
LEAST_HALF = 3
"""Least layers in half a model. With fewer, its ρ is one of two values."""
NOTHING_YET = ["No finished cell has layer scores yet."]


@dataclass(frozen=True)
class Condition:
    """Under what layers were ranked.

    part: (i, n), the i-th of n disjoint parts of the rows. (0, 1) is all of them.
    """

    mix: str
    seed: int
    pilot_fraction: float
    epochs: float
    part: tuple[int, int] = (0, 1)

    def cell(self, settings: Settings) -> Cell:
        """Return its cell. What is as in the settings is not varied, so that the cell is shared."""
        i, n = self.part
        options = (f":part={i}" if i else "") + (f":parts={n}" if n > 1 else "")
        asked = (("data.pilot_fraction", self.pilot_fraction), ("train.epochs", self.epochs))
        usual = {"data.pilot_fraction": settings.data.pilot_fraction, "train.epochs": settings.train.epochs}
        varied = tuple((key, value) for key, value in asked if value != usual[key])
        return Cell(method="layer_scores" + options, mix=self.mix, seed=self.seed, varied=varied)

    @property
    def sample(self) -> str:
        """Write all but the seed."""
        i, n = self.part
        part = f", part {i + 1} of {n}" if n > 1 else ""
        return f"{self.mix}, pilot on {self.pilot_fraction:.0%}, {self.epochs:g} epochs{part}"

    def differs(self, other: Condition) -> str:
        """Name the one thing in which the two differ, or "several"."""
        named = {
            "mix": self.mix != other.mix,
            "seed": self.seed != other.seed,
            "pilot fraction": self.pilot_fraction != other.pilot_fraction,
            "pilot epochs": self.epochs != other.epochs,
            "disjoint parts" if min(self.part[1], other.part[1]) > 1 else "part and whole": self.part != other.part,
        }
        found = [name for name, differ in named.items() if differ]
        return found[0] if len(found) == 1 else "several"


@dataclass(frozen=True)
class Ranked:
    """A condition, and its scores (L) and picks."""

    condition: Condition
    scores: Floats
    picks: tuple[int, ...]


def conditions(settings: Settings) -> list[Condition]:
    """Return per seed and mix the settings' own condition, and each other pilot fraction, length and part."""
    study, fraction, epochs = settings.study, settings.data.pilot_fraction, settings.train.epochs
    found = []
    for seed in range(settings.seeds):
        for mix in settings.mixes:
            found += [Condition(mix, seed, share, epochs) for share in (fraction, *study.pilot_fractions)]
            found += [Condition(mix, seed, fraction, length) for length in study.pilot_epochs]
            parts = study.disjoint_parts
            found += [Condition(mix, seed, fraction, epochs, (i, parts)) for i in range(parts)]
    return list(dict.fromkeys(found))


def cells(settings: Settings) -> list[Cell]:
    """Return layer scores under every condition, and FLoE's layers trained at every pilot fraction."""
    trained = [
        _trained(share, mix, seed, settings)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for share in settings.study.pilot_fractions
    ]
    return list(dict.fromkeys([*(condition.cell(settings) for condition in conditions(settings)), *trained]))


def _trained(share: float, mix: str, seed: int, settings: Settings) -> Cell:
    varied = () if share == settings.data.pilot_fraction else (("data.pilot_fraction", share),)
    return Cell(method="floe_layers", mix=mix, seed=seed, varied=varied)


def tables(results: Results) -> list[Table]:
    """Show agreement by what differs, every pair of conditions, spread by layer and depth, and training."""
    settings = results.settings
    ranked, gradients = [], {}
    for condition in conditions(settings):
        found = scored(results, condition.cell(settings))
        if found is None:
            continue
        _, G, T = found
        gradients[condition] = G
        scores = fisher_diagonal(G)
        ranked.append(Ranked(condition, scores, picks(scores, T, settings.selection)))
    pairs = pd.DataFrame([_pair(a, b, settings) for a, b in combinations(ranked, 2) if _comparable(a, b)])
    return [
        _summary(pairs, ranked, settings),
        _matrix(pairs, ranked),
        *spread_tables(
            [(r.condition.mix, r.condition.seed, gradients[r.condition], r.picks) for r in ranked], settings
        ),
        _training(results),
    ]


def _comparable(a: Ranked, b: Ranked) -> bool:
    """Return whether the two share a seed, or differ in the seed alone.

    Others differ in several things and say little.
    """
    return len(a.scores) == len(b.scores) and (
        a.condition.seed == b.condition.seed or a.condition.sample == b.condition.sample
    )


def _pair(a: Ranked, b: Ranked, settings: Settings) -> dict[str, Any]:
    half = len(a.scores) // 2
    return {
        "mix": a.condition.mix,
        "a": a.condition.sample,
        "b": b.condition.sample,
        "seed_a": a.condition.seed,
        "seed_b": b.condition.seed,
        "differs": a.condition.differs(b.condition),
        "spearman": spearman(a.scores, b.scores),
        "kendall": kendall(a.scores, b.scores),
        "jaccard_top_k": jaccard(top(a.scores, settings.selection), top(b.scores, settings.selection)),
        "jaccard_picks": jaccard(a.picks, b.picks),
        "spearman_shallow": spearman(a.scores[:half], b.scores[:half]) if half >= LEAST_HALF else None,
        "spearman_deep": spearman(a.scores[half:], b.scores[half:]) if half >= LEAST_HALF else None,
    }


def _summary(pairs: pd.DataFrame, ranked: Sequence[Ranked], settings: Settings) -> Table:
    """Average over the pairs of conditions that differ in one thing."""
    rows = []
    for differs in dict.fromkeys(pairs["differs"]) if len(pairs) else ():
        own = pairs[pairs["differs"] == differs]
        means = {name: own[name].astype(float).mean() for name in AGREEMENT}
        rows.append({"differs": differs, "pairs": len(own), **means, "spearman_least": own["spearman"].min()})
    frame = pd.DataFrame(rows)
    notes = [
        "Means over pairs of conditions that differ in the first column alone (several: of one seed, in more than "
        "one). Pairs share conditions, so they are no independent tries and get no interval. ρ: Spearman's; τ: "
        "Kendall's; shallow, deep: ρ among the first and the last half of the layers.",
        "Pilot fraction and epochs change the pilot; the Fisher sample stays. Parts change both: disjoint parts share "
        "no row, part and whole do.",
    ]
    if ranked:
        notes.append(_chance_note(ranked[0], settings))
    if settings.seeds == 1:
        notes.append("One seed: nothing is known of how another would rank.")
    title = "Agreement of layer rankings, by what differs"
    return Table("ranking_stability", title, frame, view(frame, SUMMARY_VIEW), notes if rows else NOTHING_YET)


def _chance_note(ranked: Ranked, settings: Settings) -> str:
    """Say the mean Jaccard index of two random sets of K layers.

    Their overlap is hypergeometric.
    """
    n, k = len(ranked.scores), len(top(ranked.scores, settings.selection))
    overlaps = range(max(0, 2 * k - n), k + 1)
    chance = sum(math.comb(k, j) * math.comb(n - k, k - j) / math.comb(n, k) * j / (2 * k - j) for j in overlaps)
    return f"Random rankings have ρ = τ = 0 in the mean, and the top {k} of {n} layers a Jaccard index of {chance:.2f}."


SUMMARY_VIEW: View = (
    {"Differs": "differs", "Pairs": "pairs"}
    | {
        title: (name, digits(2))
        for title, name in zip(
            ("ρ", "τ", "Top-K Jaccard", "Picks' Jaccard", "ρ shallow", "ρ deep"), AGREEMENT, strict=True
        )
    }
    | {"ρ least": ("spearman_least", digits(2))}
)


def _matrix(pairs: pd.DataFrame, ranked: Sequence[Ranked]) -> Table:
    """Show all pairs: Spearman above the diagonal, Kendall below, Spearman between seeds on it."""
    title = "Agreement of layer rankings between all conditions"
    if pairs.empty:
        return Table("ranking_stability_pairs", title, pairs, pairs, NOTHING_YET)
    names = list(dict.fromkeys(r.condition.sample for r in ranked))
    over_seeds: dict[tuple[str, str], list[Any]] = {}
    for pair in pairs.to_dict("records"):
        over_seeds.setdefault((pair["a"], pair["b"]), []).append(pair)
    shown = pd.DataFrame({"": [f"{i} {name}" for i, name in enumerate(names, 1)]})
    for j, column in enumerate(names):
        entries = []
        for i, row in enumerate(names):
            key, name = ((row, column), "spearman") if i <= j else ((column, row), "kendall")
            found = [pair[name] for pair in over_seeds.get(key, [])]
            entries.append(number(fmean(found), 2) if found else MISSING)
        shown[str(j + 1)] = entries
    notes = [
        "Above the diagonal Spearman's ρ, below it Kendall's τ, both between conditions of one seed (means over "
        "seeds); on it ρ between seeds of one condition."
    ]
    return Table("ranking_stability_pairs", title, pairs, shown, notes)


def _training(results: Results) -> Table:
    """Compare FLoE's layers at each pilot fraction with those at the largest."""
    settings = results.settings
    largest = max(settings.study.pilot_fractions)

    def seeded(share: float, mix: str) -> list[Cell]:
        return [_trained(share, mix, seed, settings) for seed in range(settings.seeds)]

    rows = [
        contrast(results, seeded(share, mix), seeded(largest, mix), mix=mix, pilot_fraction=share)
        for mix in settings.mixes
        for share in settings.study.pilot_fractions
    ]
    frame = contrast_frame(results, rows)
    title = "FLoE's layers by pilot fraction, trained"
    if frame.empty:
        return Table("ranking_stability_training", title, frame, frame, ["No finished cell yet."])
    own: dict[str, Any] = {"Mix": "mix", "Pilot on": ("pilot_fraction", lambda share: f"{share:.0%}")}
    shown = view(frame, own | contrast_view(1 - settings.study.confidence))
    return Table(
        "ranking_stability_training", title, frame, shown, contrast_notes(results, f"a pilot on {largest:.0%}")
    )
