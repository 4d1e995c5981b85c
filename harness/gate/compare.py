"""Compare two runs, or two methods of one run, answer by answer: accuracy, NLL, parameters and cost, per mix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pandas as pd

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.report import pairing
from floe_bench.harness.report.format import count, digits
from floe_bench.harness.report.tables import view


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    name: what it is called. records: (mix, method, seed) -> record. Settings that a cell varies stand with its method.
    Where two methods are compared they share rows, so the method's own name is left out.
    """

    name: str
    results: Results
    records: dict[tuple[str, str, int], Record]


def of_run(name: str, results: Results) -> Side:
    """Return all finished cells of a run, to compare with the same cells of another."""
    return Side(name, results, {_row(r, r.cell.method): r for r in results.records})


def of_method(method: str, results: Results) -> Side:
    """Return one method's finished cells, to compare with another method's on the same mixes and seeds."""
    own = [record for record in results.records if record.cell.method == method]
    return Side(method, results, {_row(r): r for r in own})


def _row(record: Record, *names: str) -> tuple[str, str, int]:
    cell = record.cell
    return cell.mix, ", ".join([*names, *cell.differences]), cell.seed


def table(a: Side, b: Side, confidence: float = 0.95) -> Table:
    """Compare a - b, one row per mix (and method), paired over items and over the seeds that both have.

    Accuracy is the primary evaluation's, by subject. NLL is that of the mix's own validation rows. Holm's correction
    covers the whole table. Raises ValueError where the sides share no cell or scored other items.
    """
    shared = sorted(a.records.keys() & b.records.keys())
    if not shared:
        raise ValueError(f"'{a.name}' and '{b.name}' have no finished cell in common")
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    for mix, method, seed in shared:
        pair = a.records[mix, method, seed], b.records[mix, method, seed]
        groups.setdefault((mix, method), []).append(pair)
    found = pairing.compared(a.results, b.results, list(groups.values()), confidence)
    frame = pd.DataFrame(
        [
            {"mix": mix, "method": method, "seeds": len(pairs)}
            | accuracy
            | nll
            | pairing.trainable(pairs)
            | {"cost_ratio": _cost_ratio(pairs)}
            for ((mix, method), pairs), (accuracy, nll) in zip(groups.items(), found, strict=True)
        ]
    )
    left_out = len(a.records.keys() ^ b.records.keys())
    notes = [
        f"a is {a.name}, b is {b.name}; differences are a - b with their {confidence:.0%} interval, p after Holm.",
        f"A tie: the difference is not significant at {1 - confidence:.2g}. A lower NLL is better.",
        *([f"{left_out} cells are on one side only and are left out."] if left_out else []),
    ]
    return Table("compare", f"{a.name} against {b.name}", frame, _view(frame, 1 - confidence), notes)


def _cost_ratio(pairs: pairing.Pairs) -> float:
    """Return how many times b's seconds a took."""
    seconds_a, seconds_b = (sum(map(_seconds, side)) for side in zip(*pairs, strict=True))
    return seconds_a / seconds_b if seconds_b else math.nan


def _seconds(record: Record) -> float:
    return record.planning_cost.seconds + (record.training.seconds if record.training else 0.0)


ACCURACY = replace(pairing.ACCURACY, verdict="By accuracy", higher="a better", lower="b better")
NLL = replace(pairing.NLL, verdict="By NLL", higher="b better", lower="a better")


def _view(frame: pd.DataFrame, alpha: float) -> pd.DataFrame:
    columns = (
        {"Mix": "mix", "Method": "method", "Seeds": "seeds"}
        | ACCURACY.view(alpha)
        | NLL.view(alpha)
        | {
            "Trainable a": ("trainable_a", count),
            "Trainable b": ("trainable_b", count),
            "Planning and training s, a/b": ("cost_ratio", digits(2)),
        }
    )
    left_out = ["Sees", "Sees "] if any(frame["method"]) else ["Sees", "Sees ", "Method"]
    return view(frame, columns).drop(columns=left_out)
