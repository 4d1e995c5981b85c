"""More experts cost inference latency

Rule: A line through milliseconds per token against M has a slope whose interval lies above 0.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.stats.trend import linear_trend

CLAIM = Claim(
    number=7,
    source="efficiency",
    protocol="latency against M",
    experiment="experts",
    methods=("hydralora",),
    records=3,
)


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    rows = [row for row in evidence.rows("experts_latency") if row["num_experts"] and row["ms_per_token"] is not None]
    if len(rows) < 3:
        return Verdict("underpowered", "–", "fewer than three numbers of experts have a latency")
    base = next((row["ms_per_token"] for row in evidence.rows("experts_latency") if not row["num_experts"]), None)
    x, y = [row["num_experts"] for row in rows], [row["ms_per_token"] for row in rows]
    slope = linear_trend(x, y, evidence.confidence)
    ours = f"{slope.slope:+.4f} ms a token and expert [{slope.low:+.4f}, {slope.high:+.4f}]"
    if base:
        ours += f"; M = {x[-1]}: {y[-1] / base:.2f} × the base model"
    if slope.low > 0:
        return Verdict("reproduced", ours, "latency rises with the number of experts")
    if slope.high <= 0:
        return Verdict("not reproduced", ours, "latency does not rise with the number of experts")
    return Verdict("underpowered", ours, "the slope's interval covers 0")
