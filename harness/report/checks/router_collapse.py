"""Router collapse

What: in some adapted module, almost all gate mass lies on one expert. The mass is averaged over the tokens that
the evaluation `router` read.

Why: the other experts then do nothing. MoE-LoRA has become LoRA at the price of M matrices B. A router may choose
sharply and still send different tokens to different experts; this is no collapse, and is not reported.

What to do: look at the gate entropy by layer; lower the learning rate, train longer, or use fewer experts.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.tables import Results

NUMBER = 2

EVALUATION = "router"

MAX_GATE = 0.9
"""A router has collapsed where one expert's mean gate is above this. The others then share less than a tenth."""


def find(results: Results) -> list[Finding]:
    findings = []
    for record in results.records:
        if EVALUATION not in record.scores:
            continue
        gates = results.items(record, EVALUATION)
        if gates.empty:  # a model without a router
            continue
        routers = gates.groupby("module", sort=True)
        strongest = gates.loc[routers["mean_gate"].idxmax()]
        # A single expert has all the mass by construction: there is no router to collapse.
        routed = strongest[(routers["expert"].nunique() > 1).to_numpy()]
        collapsed = routed[routed["mean_gate"] > MAX_GATE]
        if len(collapsed):
            worst = collapsed.loc[collapsed["mean_gate"].idxmax()]
            message = (
                f"{len(collapsed)} of {len(routed)} routers give more than {MAX_GATE:.0%} of their gate mass to one "
                f"expert; worst: {worst['module']}, expert {worst['expert']} with "
                f"{worst['mean_gate']:.1%}"
            )
            findings.append(Finding(message, (record.cell.label,)))
    return findings
