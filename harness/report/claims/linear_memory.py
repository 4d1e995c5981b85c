"""Memory grows linearly with the number of adapted layers

Rule: Peak memory against adapted layers is a rising line with an R² of at least R_SQUARED, and has no significant
x² term.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.report import pairing
from floe_bench.harness.report.format import number
from floe_bench.harness.stats.paired import holm

CLAIM = Claim(
    number=6,
    source="efficiency",
    protocol="peak memory of training",
    experiment="layer_fraction",
    records=5,
)
COUNTS = 4
R_SQUARED = 0.95


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    lines = [row for row in evidence.rows("layer_fraction_memory") if row["quantity"] == "peak_bytes"]
    if not lines:
        return Verdict("underpowered", "–", "too few trainings for a line")
    ours = "; ".join(
        f"{line['mix']} {line['slope'] / 1e6:.2f} MB [{line['low'] / 1e6:.2f}, {line['high'] / 1e6:.2f}] a layer, "
        f"R² {number(line['r_squared'], 2)}, p of x² {pairing.p_text(line['quadratic_p'])}"
        for line in lines
    )
    if any(line["quadratic_p"] is None or line["counts"] < COUNTS for line in lines):
        return Verdict("underpowered", ours, f"fewer than {COUNTS} numbers of adapted layers on a mix")
    adjusted = holm([line["quadratic_p"] for line in lines])
    if any(p is not None and p < 1 - evidence.confidence for p in adjusted):
        return Verdict("not reproduced", ours, "a curve fits significantly better than a line")
    if any(line["high"] <= 0 for line in lines):
        return Verdict("not reproduced", ours, "the peak does not rise with the number of adapted layers")
    if all(line["low"] > 0 and line["r_squared"] >= R_SQUARED for line in lines):
        return Verdict("reproduced", ours, "a rising line, and no curve beside it")
    return Verdict("underpowered", ours, "the measured peaks scatter too much about the line")
