"""Accuracy against trainable parameters: every method on every mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.contracts import Cell, Record
from harness.report.format import count, mean_sd, megabytes, number, percent
from harness.settings import Settings

TITLE = "Accuracy against trainable parameters"


def cells(settings: Settings) -> list[Cell]:
    """Every method on every mix, seed after seed."""
    return [
        Cell(method=method, mix=mix, seed=seed)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method in settings.methods
    ]


def table(records: Sequence[Record], settings: Settings) -> pd.DataFrame:
    """One row per mix and method, over its seeds.

    Accuracies are fractions, NLLs nats per token, sizes bytes, times seconds. `accuracy_sd` is the sample
    standard deviation over seeds, missing for one seed. Costs are means over seeds; planning holds pilot,
    scoring and search in full, whichever method paid first.
    """
    frame = pd.DataFrame([_row(record, settings.eval.primary) for record in records])
    if frame.empty:
        return frame
    rows = []
    for (mix, method), group in frame.groupby(["mix", "method"], sort=False):
        numbers = group.drop(columns=["mix", "method", "layers", "r"]).mean()
        rows.append(
            {
                "mix": mix,
                "method": method,
                "seeds": len(group),
                "accuracy": numbers.pop("accuracy"),
                "accuracy_sd": group["accuracy"].std(),
                "nll": numbers.pop("nll"),
                "nll_sd": group["nll"].std(),
                "layers": _span(group["layers"]),
                "r": _span(group["r"]),
                **numbers,
            }
        )
    result = pd.DataFrame(rows)
    full = result[result["method"] == "full"].set_index("mix")["accuracy"]
    result.insert(5, "share_of_full", result["accuracy"] / result["mix"].map(full))
    return _in_grid_order(result, settings)


def view(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as text, for people."""
    if frame.empty:
        return frame
    return pd.DataFrame(
        {
            "Mix": frame["mix"],
            "Method": frame["method"],
            "Seeds": frame["seeds"],
            "Accuracy %": mean_sd(100 * frame["accuracy"], 100 * frame["accuracy_sd"], 1),
            "% of full": frame["share_of_full"].map(percent),
            "NLL": mean_sd(frame["nll"], frame["nll_sd"], 3),
            "Forgetting": frame["forgetting"].map(lambda x: number(x, 3, sign=True)),
            "Layers": frame["layers"],
            "r": frame["r"],
            "Trainable": frame["trainable_parameters"].map(count),
            "Share": frame["trainable_share"].map(percent),
            "Size MB": frame["adapter_bytes"].map(megabytes),
            "Train s": frame["training_seconds"].map(number),
            "Train tok/s": frame["training_tokens_per_second"].map(number),
            "Peak MB": frame["peak_bytes"].map(megabytes),
            "Plan s": frame["planning_seconds"].map(number),
            "Plan tokens": frame["planning_tokens"].map(count),
            "Infer tok/s": frame["inference_tokens_per_second"].map(number),
        }
    )


def notes(records: Sequence[Record], settings: Settings) -> list[str]:
    """What a reader must know to read the table."""
    primary = settings.eval.primary
    scores = [record.scores[primary] for record in records if primary in record.scores]
    if not scores:
        return []
    lines = [f"Accuracy: {primary}, {scores[0].n_items} questions."]
    if scores[0].chance is not None:
        lines[0] += f" Guessing gives {scores[0].chance:.0%}."
    seeds = {record.cell.seed for record in records}
    if len(seeds) == 1:
        lines.append("One seed: no spread over seeds is known, and small differences mean nothing.")
    lines += [
        "NLL: nats per completion token on the mix's own validation rows. Forgetting: change of NLL on plain prose.",
        "Plan: pilot, scoring and search, charged whole to every method that needs them.",
    ]
    return lines


def _row(record: Record, primary: str) -> dict[str, Any]:
    training = record.training
    own = _nll_of(record)
    prose = record.scores.get("pretrain_nll")
    inference = record.scores.get("validation_nll")
    return {
        "mix": record.cell.mix,
        "method": record.cell.method,
        "accuracy": record.scores[primary].metrics.get("acc"),
        "nll": own,
        "layers": len(record.plan["layers"]),
        "r": record.plan["r"],
        "forgetting": prose.metrics["nll_change"] if prose else None,
        "trainable_parameters": record.plan["trainable_parameters"],
        "trainable_share": record.plan["trainable_parameters"] / record.plan["base_parameters"],
        "adapter_bytes": training.adapter_bytes if training else 0,
        "training_seconds": training.seconds if training else 0.0,
        "training_tokens": training.tokens if training else 0,
        "training_tokens_per_second": training.tokens_per_second if training else None,
        "peak_bytes": training.peak_bytes if training else None,
        "planning_seconds": record.planning_cost.seconds,
        "planning_tokens": record.planning_cost.tokens,
        "inference_tokens_per_second": inference.tokens / inference.seconds if inference else None,
    }


def _nll_of(record: Record) -> float | None:
    """Validation NLL on the mix trained on; for a mix of mixes, the mean over all."""
    scored = record.scores.get("validation_nll")
    if scored is None:
        return None
    return scored.metrics.get(f"nll_{record.cell.mix}", scored.metrics["nll_mean"])


def _span(values: pd.Series) -> str:
    """One value, or the range over seeds."""
    found = sorted({int(value) for value in values.dropna()})
    if not found:
        return "–"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def _in_grid_order(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    mixes = {mix: i for i, mix in enumerate(settings.mixes)}
    methods = {method: i for i, method in enumerate(settings.methods)}
    order = sorted(
        range(len(frame)),
        key=lambda i: (mixes.get(frame["mix"].iloc[i], 99), methods.get(frame["method"].iloc[i], 99)),
    )
    return frame.iloc[order].reset_index(drop=True)
