"""Diagonal scoring costs O(L·|θ|), not O(L²·|θ|²)

Rule: The seconds of diagonal Fisher scoring grow as a power of depth. The exponent's interval lies below EXPONENT;
for O(L²) the exponent is 2.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict

CLAIM = Claim(
    number=11,
    source="complexity",
    protocol="seconds of scoring against depth",
    experiment="scoring_cost",
    records=3,
)
EXPONENT = 1.3


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    rows = [row for row in evidence.rows("scoring_cost_trend") if row["scorer"] == "fisher_gradients"]
    if not rows:
        return Verdict("underpowered", "–", "too few depths for a trend")
    (row,) = rows
    ours = f"seconds grow as L^{row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}] over {row['depths']} depths"
    if row["high"] <= EXPONENT:
        return Verdict("reproduced", ours, "no faster than linear in depth")
    if row["low"] > EXPONENT:
        return Verdict("not reproduced", ours, "faster than linear in depth")
    return Verdict("underpowered", ours, f"the exponent's interval covers {EXPONENT}")
