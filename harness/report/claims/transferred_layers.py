"""Layers selected on a general mix transfer to medical and code

Rule: On the claim's mixes, the NLL with layers picked on a GENERAL mix exceeds that with own picks by at most
MARGIN_NLL.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.report.claims._shared import nats, significant

CLAIM = Claim(
    number=9,
    source="cross-domain",
    protocol="layers picked on Dolly or FLANv2, adapted on medical and code",
    experiment="cross_domain",
    methods=("floe_layers", "floe_layers:on=dolly", "floe_layers:on=flanv2"),
    mixes=("medical", "code"),
    records=18,
    seeds=3,
)
GENERAL = ("dolly", "flanv2")
MARGIN_NLL = 0.01


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    rows = [row for row in evidence.rows("cross_domain") if row["mix"] in claim.mixes and row["layers_from"] in GENERAL]
    if not rows:
        return Verdict("not run", "–", "no layers of a general mix were adapted on a special one")
    compared = [row for row in rows if row["is"] == "compared"]
    if any(row["nll_p"] is None for row in compared):
        return Verdict("underpowered", "–", "not every pair of mixes has an NLL beside that with own picks")
    ours = "; ".join(
        f"{row['layers_from']}→{row['mix']} "
        + (row["is"] if row["is"] != "compared" else nats(row["nll_difference"], row["nll_low"], row["nll_high"]))
        for row in rows
    )
    if any(significant(row, "nll", evidence) and row["nll_difference"] > 0 for row in compared):
        return Verdict("not reproduced", ours, "significantly worse than own picks on a mix")
    if all(row["nll_high"] <= MARGIN_NLL for row in compared):
        return Verdict("reproduced", ours, f"no worse than own picks by {MARGIN_NLL} nats")
    return Verdict("underpowered", ours, "not significantly worse, nor surely as good")
