"""Layer rankings are stable across data subsets (30/50/100 %), least so for deep layers

Rule: Spearman's ρ between pilot fractions is at least SPEARMAN. The ranks of deep layers spread more than those of
shallow ones.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.report.claims._shared import mean_over_seeds

CLAIM = Claim(
    number=5,
    source="layer selection",
    protocol="pilots on 30, 50 and 100 % of the data",
    experiment="ranking_stability",
    methods=("layer_scores",),
    records=9,
    seeds=3,
)
SPEARMAN = 0.8


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    pairs = [row for row in evidence.rows("ranking_stability_pairs") if row["differs"] == "pilot fraction"]
    agreement = mean_over_seeds([(row["mix"], row["seed_a"], row["spearman"]) for row in pairs], evidence)
    if agreement is None:
        return Verdict("underpowered", "–", "two pilot fractions are finished on fewer than two mixes and seeds")
    depths = {d["verdict"] for d in evidence.rows("ranking_stability_depth") if d["spread_over"] == "conditions"}
    figure = SPEARMAN
    text = f"Spearman {agreement.mean:.2f} [{agreement.low:.2f}, {agreement.high:.2f}] of {agreement.n} pairs"
    ours = "; ".join([text, *sorted(depths)])
    if agreement.high < figure:
        return Verdict("not reproduced", ours, f"the interval lies below {figure}")
    if agreement.low >= figure and "deep layers more stable" in depths:
        return Verdict("not reproduced", ours, "stable, but deep layers are the more stable ones")
    if agreement.low >= figure and depths == {"deep layers less stable"}:
        return Verdict("reproduced", ours, "stable, deep layers least")
    return Verdict("underpowered", ours, f"not surely above {figure}, or deep layers not seen to be least stable")
