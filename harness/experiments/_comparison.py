"""Compare every method with a named reference, answer by answer."""

from __future__ import annotations

import pandas as pd

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.report import pairing
from floe_bench.harness.report.format import count
from floe_bench.harness.report.tables import view


def comparison(id: str, title: str, results: Results, reference: str) -> Table:
    """Return one row per mix and method: method - reference, over the seeds that both have.

    Accuracy is that of the primary evaluation. NLL is that of the mix's own validation rows. Trainable parameters are
    means over seeds. Holm's correction covers the whole table.
    """
    confidence = results.settings.study.confidence
    sides = {(record.cell.mix, record.cell.method, record.cell.seed): record for record in results.records}
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    for (mix, method, seed), record in sides.items():
        other = sides.get((mix, reference, seed))
        if other is not None and method != reference:
            groups.setdefault((mix, method), []).append((record, other))
    found = pairing.compared(results, results, list(groups.values()), confidence)
    frame = pd.DataFrame(
        [
            {"mix": mix, "method": method, "reference": reference, "seeds": len(pairs)}
            | accuracy
            | {"mcnemar_p": pairing.mcnemar_p(results, pairs)}
            | nll
            | pairing.trainable(pairs)
            for ((mix, method), pairs), (accuracy, nll) in zip(groups.items(), found, strict=True)
        ]
    )
    notes = [
        f"Differences are method - {reference}, paired by question (clustered by subject) and by row, with their "
        f"{confidence:.0%} interval; p after Holm over the whole table. A tie is a difference that is not "
        f"significant at {1 - confidence:.2g}. Sees: the least difference found with a power of 80 % by one test "
        "before Holm. McNemar: its exact p for one seed, before Holm, questions taken for independent, which those of "
        "one subject are not; the verdict goes by p.",
        "With fewer than three seeds p speaks of these trained models, not of training them again.",
    ]
    if not groups:
        notes = [f"No two finished methods to compare, one of them {reference}."]
    return Table(id, title, frame, _view(frame, 1 - confidence), notes)


def _view(frame: pd.DataFrame, alpha: float) -> pd.DataFrame:
    shown = view(
        frame,
        {"Mix": "mix", "Method": "method", "Seeds": "seeds"}
        | pairing.ACCURACY.view(alpha)
        | pairing.NLL.view(alpha)
        | {"Trainable": ("trainable_a", count), "of reference": ("trainable_b", count)},
    )
    if len(frame):
        shown.insert(list(shown).index("Sees"), "McNemar", frame["mcnemar_p"].map(pairing.p_text))
    return shown
