"""93.1 % of full fine-tuning's MMLU accuracy with 25 % of layers adapted

Rule: On the claim's mix, FLoE's accuracy is at least FIGURE less TOLERANCE of full fine-tuning's. FLoE must adapt
at most LAYER_SHARE of the layers. Full fine-tuning must be above the base model.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.floe.selection import max_layers
from floe_bench.harness.report import pairing
from floe_bench.harness.report.claims._relative import pairs_of, relative_accuracy

CLAIM = Claim(
    number=1,
    source="abstract",
    paper="93.1 %",
    protocol="LLaMA2-7B, Dolly-15K, MMLU",
    experiment="main",
    methods=("floe", "full", "base"),
    mixes=("dolly",),
    records=9,
    seeds=3,
)
LAYER_SHARE = 0.25
FIGURE = 0.931
TOLERANCE = 0.02


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    results, (mix,) = evidence.results, claim.mixes
    for floe, full in pairs_of(results, mix, "floe", "full"):
        if len(floe.plan.layers) > max_layers(LAYER_SHARE, len(full.plan.layers)):
            return Verdict("not run", "–", f"FLoE adapted more than {LAYER_SHARE:.0%} of the layers")
    over_base = pairs_of(results, mix, "full", "base")
    if not over_base:
        return Verdict("not run", "–", f"full and base are not both finished on {mix}")
    gained = pairing.accuracy_difference(results, results, over_base, evidence.confidence)
    if gained is not None and (gained.low <= 0 or gained.p >= 1 - evidence.confidence):
        return Verdict("underpowered", "–", "full fine-tuning is not above the base model: a share of it means nothing")
    return relative_accuracy(results, mix, ["full"], of="of", offset=0.0, figure=FIGURE, tolerance=TOLERANCE)
