"""Layers picked on one mix and adapted on another, against own picks, random layers and all layers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._contrasts import contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.report.format import digits, number
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.stats.ranks import jaccard

RANDOM_DRAWS = 3
"""Random layer sets beside the picked ones, for a rough view of chance. Experiment random_null has its distribution."""


def cells(settings: Settings) -> list[Cell]:
    """Return for each mix to adapt on: layers picked on every mix, random layers, all layers."""
    return [
        Cell(method=method, mix=mix, seed=seed)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method in _methods(mix, settings).values()
    ]


def _methods(mix: str, settings: Settings) -> dict[str, str]:
    """Return source of the layers -> method. A mix's own picks come first."""
    others = [other for other in settings.mixes if other != mix]
    draws = range(min(RANDOM_DRAWS, settings.study.random_draws))
    return (
        {mix: "floe_layers"}
        | {other: f"floe_layers:on={other}" for other in others}
        | {f"random {draw}": f"random_layers:draw={draw}" if draw else "random_layers" for draw in draws}
        | {"all layers": "hydralora"}
    )


def tables(results: Results) -> list[Table]:
    """Compare every source of layers with the mix's own picks, and show how the picks overlap."""
    settings = results.settings
    overlap = {(row["mix"], row["layers_from"]): row["jaccard"] for row in _overlaps(results)}
    frame = contrast_frame(
        results,
        [
            contrast(
                results,
                _seeded(method, mix, settings),
                _seeded("floe_layers", mix, settings),
                mix=mix,
                layers_from=origin,
            )
            for mix in settings.mixes
            for origin, method in _methods(mix, settings).items()
        ],
    )
    if not frame.empty:
        frame["jaccard"] = [overlap.get(key) for key in zip(frame["mix"], frame["layers_from"], strict=True)]
    notes = [
        *contrast_notes(results, "the layers picked on the mix itself"),
        "Pilot, Fisher sample and selection are the other mix's; rank and training are the mix's own. All layers has "
        "more trainable parameters: see Trainable. Jaccard: layers shared with the mix's own picks, mean over seeds.",
        f"{RANDOM_DRAWS} random draws do not make a distribution: random_null has it.",
    ]
    if frame.empty:
        notes = ["No finished cell yet."]
    transfer = Table(
        "cross_domain", "Layers picked on one mix, adapted on another", frame, view(frame, _columns(settings)), notes
    )
    return [transfer, _matrix(frame, settings)]


def _seeded(method: str, mix: str, settings: Settings) -> list[Cell]:
    return [Cell(method=method, mix=mix, seed=seed) for seed in range(settings.seeds)]


def _overlaps(results: Results) -> list[dict[str, Any]]:
    """Return the mean Jaccard index over seeds of each source's layers with the mix's own picks."""
    settings = results.settings
    found = []
    for mix in settings.mixes:
        for origin, method in _methods(mix, settings).items():
            pairs = [
                (results.find(cell), results.find(own))
                for cell, own in zip(_seeded(method, mix, settings), _seeded("floe_layers", mix, settings), strict=True)
            ]
            shared = [jaccard(a.plan.layers, b.plan.layers) for a, b in pairs if a and b]
            found.append({"mix": mix, "layers_from": origin, "jaccard": sum(shared) / len(shared) if shared else None})
    return found


def _matrix(frame: pd.DataFrame, settings: Settings) -> Table:
    """Show the NLL's difference to own picks: adapted on (columns) by picked on (rows)."""
    title = "NLL on the column's mix with the row's layers, less that with its own"
    if frame.empty:
        return Table("cross_domain_matrix", title, frame, frame, ["No finished cell yet."])
    alpha = 1 - settings.study.confidence
    columns = ("mix", "layers_from", "nll", "nll_difference", "nll_p", "jaccard", "is")
    rows: list[dict[str, Any]] = [{name: row[name] for name in columns} for row in frame.to_dict("records")]
    by_pair = {(row["layers_from"], row["mix"]): row for row in rows}
    origins = list(dict.fromkeys([*settings.mixes, *(row["layers_from"] for row in rows)]))
    shown = pd.DataFrame(
        {"Layers from": origins}
        | {mix: [_entry(by_pair.get((origin, mix)), alpha) for origin in origins] for mix in settings.mixes}
    )
    notes = [
        "Nats per token, positive where the row's layers are worse; * where significant after Holm over table "
        "cross_domain. Own picks are 0, and = marks layers that came out the same as own picks. A zero without = is "
        "a tie like any other without *."
    ]
    return Table("cross_domain_matrix", title, pd.DataFrame(rows), shown, notes)


def _entry(row: dict[str, Any] | None, alpha: float) -> str:
    if row is None:
        return number(None)
    if row["is"] == "reference":
        return "own"
    if row["is"] == "same training":
        return "="
    star = "*" if not pd.isna(row["nll_p"]) and row["nll_p"] < alpha else ""
    return number(row["nll_difference"], 4, sign=True) + star


def _columns(settings: Settings) -> View:
    own: dict[str, Any] = {"Adapted on": "mix", "Layers from": "layers_from", "Jaccard": ("jaccard", digits(2))}
    return own | contrast_view(1 - settings.study.confidence)
