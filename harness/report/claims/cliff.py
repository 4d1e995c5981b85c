"""Accuracy falls off a cliff below some number of adapted layers

Rule: One step to fewer layers is significant. It costs at least SHARE of the whole range of the NLL curve. It also
costs at least STEEPNESS times what a straight line over the numbers of layers would lose there.
"""

from __future__ import annotations

from typing import Any

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.report.claims._shared import nats, significant

CLAIM = Claim(
    number=10,
    source="number of layers",
    protocol="one layer to all",
    experiment="layer_fraction",
    records=12,
    seeds=3,
)
COUNTS = 4
SHARE = 0.5
STEEPNESS = 2


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    steps = [row for row in evidence.rows("layer_fraction_steps") if row["nll_range"]]
    tested = [row for row in steps if row["nll_p"] is not None]
    counts = {mix: 1 + sum(row["mix"] == mix for row in tested) for mix in {row["mix"] for row in steps}}
    if not counts or min(counts.values()) < COUNTS:
        return Verdict("underpowered", "–", f"fewer than {COUNTS} numbers of layers on a mix")
    worse = [row for row in tested if significant(row, "nll", evidence) and row["nll_difference"] > 0]
    if not worse:
        return Verdict("underpowered", f"{len(tested)} steps, none significant", "no step to fewer layers shows a loss")

    def needed(row: dict[str, Any]) -> float:
        own = [step for step in steps if step["mix"] == row["mix"]]
        layers = max(step["k_more"] for step in own) - min(step["k_fewer"] for step in own)
        return max(SHARE, STEEPNESS * (row["k_more"] - row["k_fewer"]) / layers)

    step = max(worse, key=lambda row: row["nll_low"] / row["nll_range"] - needed(row))
    share = step["nll_difference"] / step["nll_range"]
    ours = (
        f"{step['mix']}, K {step['k_more']} → {step['k_fewer']}: "
        f"{nats(step['nll_difference'], step['nll_low'], step['nll_high'])}, {share:.0%} of the range"
    )
    if step["nll_low"] / step["nll_range"] >= needed(step):
        return Verdict("reproduced", ours, "one step costs most of what all steps cost")
    if all(row["nll_high"] / row["nll_range"] < SHARE for row in tested):
        return Verdict("not reproduced", ours, "a loss spread over several steps")
    return Verdict("underpowered", ours, f"a step may cost {SHARE:.0%} of the range, or drops many layers")
