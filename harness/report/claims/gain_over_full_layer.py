"""+7.0 % relative over full-layer methods in mixed-domain adaptation

Rule: On the claim's mix, FLoE's relative gain in accuracy over the better full-layer adapter is at least FIGURE
less TOLERANCE.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.report.claims._relative import relative_accuracy

CLAIM = Claim(
    number=2,
    source="abstract",
    paper="+7.0 %",
    protocol="mixed domains; HydraLoRA and LoRA on every layer",
    experiment="main",
    methods=("floe", "lora", "hydralora"),
    mixes=("mixed",),
    records=9,
    seeds=3,
)
FIGURE = 0.07
TOLERANCE = 0.02


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    return relative_accuracy(
        evidence.results,
        claim.mixes[0],
        ["lora", "hydralora"],
        of="over",
        offset=1.0,
        figure=FIGURE,
        tolerance=TOLERANCE,
    )
