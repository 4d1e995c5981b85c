"""Many random layer sets: where the layers that FLoE selects fall in the distribution of what sets of K reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._accuracy import accuracy_columns, accuracy_text
from floe_bench.harness.experiments._shared import accuracy_of, layers_text, nll_of
from floe_bench.harness.experiments._sweep import grouped, made_table, of_first_seed
from floe_bench.harness.floe import selection
from floe_bench.harness.report.format import digits, number, percent
from floe_bench.harness.report.pairing import p_text
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.paired import proportion_at_most

NULL, JUDGED = "random_layers", ("floe_layers", "topk_layers")

SCORES = {"nll": (nll_of, 1), "accuracy": (accuracy_of, -1)}
"""Score -> how it is read, and the sign under which lower is better."""
NAMES = {"nll": "NLL", "accuracy": "accuracy %"}


def cells(settings: Settings) -> list[Cell]:
    """Return the selecting methods, and study.random_draws random layer sets, on every mix and seed."""
    draws = [NULL, *(f"{NULL}:draw={draw}" for draw in range(1, settings.study.random_draws))]
    return [
        Cell(method=method, mix=mix, seed=seed)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method in (*JUDGED, *draws)
    ]


def tables(results: Results) -> list[Table]:
    """Show places among the draws, whether the selection's objective orders the draws, and the draws."""
    places, orders, draws = places_frame(results), objective_frame(results), draws_frame(results)
    confidence = results.settings.study.confidence
    place_notes = [
        *_finished_notes(places, confidence),
        "At least as good: the share of random draws whose score equals or beats the method's, with its exact "
        f"(Clopper-Pearson) {confidence:.0%} interval; 50 % is what a random set expects. Ties count.",
        "Draws may repeat a set; distinct: how many sets there are.",
        "A method may adapt fewer layers than the draws' K where its Taylor budget is tight; both are shown. Each "
        "seed has draws of its own; training noise is part of the spread.",
    ]
    order_notes = [
        "Spearman's ρ over the distinct random sets between the objective that FLoE minimises, ½ Σ of the Fisher "
        "diagonal left out, and the score after training (NLL, or accuracy with its sign changed). Positive: sets "
        "that FLoE prefers do better. p: scipy's, of no association, not adjusted.",
        "It asks more than the place of one set does: whether the objective orders sets at all.",
    ]
    return [
        made_table("random_null", "FLoE's layers among random ones", places, view(places, PLACES_VIEW), place_notes),
        made_table(
            "random_null_objective",
            "Does the selection's objective order random sets",
            orders,
            view(orders, OBJECTIVE_VIEW),
            order_notes,
        ),
        made_table(
            "random_null_draws",
            "The random draws",
            draws,
            view(of_first_seed(draws), DRAWS_VIEW),
            ["NLL in nats per token on the mix's own validation rows. Shown for the first seed; the CSV has all."],
        ),
    ]


def _finished_notes(places: pd.DataFrame, confidence: float) -> list[str]:
    """Say what the fewest finished draws of a row can show at best."""
    if places.empty:
        return []
    finished = places["draws"].tolist()
    fewest = min(finished)
    best_of_all = proportion_at_most(np.ones(fewest), 0.0, confidence)[1].high
    return [
        f"With {fewest} finished draws{', the fewest of a row' if fewest < max(finished) else ''}, of a method "
        f"that beats them all it can only be said that at most {best_of_all:.0%} of all sets are as good."
    ]


def places_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix, seed, method and score.

    It has the share of draws that are at least as good, and the draws' quantiles.
    """
    rows: list[dict[str, Any]] = []
    for (mix, seed), records in _by_seed(results).items():
        draws = _draws(records)
        for judged in (record for record in records if record.cell.method in JUDGED):
            for name, (read, sign) in SCORES.items():
                null = [value for record in draws if (value := read(record)) is not None]
                own = read(judged)
                if own is None or not null:
                    continue
                share, interval = proportion_at_most(
                    [sign * value for value in null], sign * own, results.settings.study.confidence
                )
                rows.append(
                    {
                        "mix": mix,
                        "seed": seed,
                        "method": judged.cell.method,
                        "score": name,
                        "layers": layers_text(judged.plan.layers),
                        "n_layers": len(judged.plan.layers),
                        "value": own,
                        "at_least_as_good": share,
                        "low": interval.low,
                        "high": interval.high,
                        "draws": len(null),
                        "distinct_sets": len({tuple(record.plan.layers) for record in draws}),
                        "k": len(draws[0].plan.layers),
                    }
                    | {f"null_q{q}": float(np.percentile(null, q)) for q in (0, 25, 50, 75, 100)}
                )
    return pd.DataFrame(rows)


def objective_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix, seed and score.

    It has the rank correlation of the selection's objective with the score, over distinct sets.
    """
    from scipy.stats import spearmanr

    rows: list[dict[str, Any]] = []
    for (mix, seed), records in _by_seed(results).items():
        fisher = next((record.plan.scores["fisher"] for record in records if record.cell.method == JUDGED[0]), None)
        distinct = list({tuple(record.plan.layers): record for record in _draws(records)}.values())
        if fisher is None or len(distinct) < 3:
            continue
        objectives = [selection.objective(fisher, record.plan.layers) for record in distinct]
        for name, (read, sign) in SCORES.items():
            values = [read(record) for record in distinct]
            if any(value is None for value in values) or not np.ptp(values):
                continue
            found: Any = spearmanr(objectives, [sign * value for value in values if value is not None])
            rows.append(
                {
                    "mix": mix,
                    "seed": seed,
                    "score": name,
                    "distinct_sets": len(distinct),
                    "spearman": float(found.statistic),
                    "p": float(found.pvalue),
                }
            )
    return pd.DataFrame(rows)


def draws_frame(results: Results) -> pd.DataFrame:
    """Return one row per draw."""
    return pd.DataFrame(
        [
            {
                "mix": mix,
                "seed": seed,
                "method": record.cell.method,
                "layers": layers_text(record.plan.layers),
                "nll": nll_of(record),
                **accuracy_columns(results, [record]),
            }
            for (mix, seed), records in _by_seed(results).items()
            for record in _draws(records)
        ]
    )


def _by_seed(results: Results) -> dict[tuple[str, int], list[Record]]:
    return grouped(results, lambda record: (record.cell.mix, record.cell.seed))


def _draws(records: list[Record]) -> list[Record]:
    return [record for record in records if record.cell.method.partition(":")[0] == NULL]


def _value_text(score: str, value: float) -> str:
    return percent(value) if score == "accuracy" else number(value, 4)


PLACES_VIEW: View = {
    "Mix": "mix",
    "Seed": "seed",
    "Method": "method",
    "Layers": "layers",
    "How many (draws' K)": ("n_layers", "k", "{} ({})".format),
    "Score": ("score", NAMES.get),
    "Its own": ("score", "value", _value_text),
    "Draws at least as good %": (
        "at_least_as_good",
        "low",
        "high",
        lambda share, low, high: f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]",
    ),
    "Draws (distinct)": ("draws", "distinct_sets", "{} ({})".format),
    "Draws: least": ("score", "null_q0", _value_text),
    "median": ("score", "null_q50", _value_text),
    "most": ("score", "null_q100", _value_text),
}


OBJECTIVE_VIEW: View = {
    "Mix": "mix",
    "Seed": "seed",
    "Score": ("score", NAMES.get),
    "Distinct sets": "distinct_sets",
    "ρ": ("spearman", digits(2, sign=True)),
    "p": ("p", p_text),
}


DRAWS_VIEW: View = {
    "Mix": "mix",
    "Seed": "seed",
    "Draw": "method",
    "Layers": "layers",
    "NLL": ("nll", digits(4)),
    "Accuracy %": accuracy_text,
}
