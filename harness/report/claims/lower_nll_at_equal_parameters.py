"""MoE-LoRA with a shared A is more parameter-efficient than LoRA

Rule: MoE-LoRA's NLL is significantly lower than LoRA's on every mix, after Holm over the mixes. Both match FLoE's
trainable parameters within the tolerance. Differences within MARGIN (nats) count as the same NLL.
"""

from __future__ import annotations

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.report import pairing
from floe_bench.harness.report.claims._relative import pairs_of
from floe_bench.harness.report.claims._shared import nats
from floe_bench.harness.stats.paired import holm

CLAIM = Claim(
    number=4,
    source="adapter",
    protocol="equal trainable parameters, same data and steps",
    experiment="parameter_matched",
    methods=("hydralora:match=floe", "lora:match=floe"),
    records=6,
    seeds=3,
)
MARGIN = 0.005


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    results = evidence.results
    run = {mix: pairs_of(results, mix, "hydralora:match=floe", "lora:match=floe") for mix in results.settings.mixes}
    pairs = {mix: [pair for pair in found if all(map(_matched, pair))] for mix, found in run.items()}
    if any(run.values()) and not any(pairs.values()):
        return Verdict("not run", "–", "no integer rank brings both methods to FLoE's parameters")
    found = {
        mix: pairing.nll_difference(results, results, pair, evidence.confidence) for mix, pair in pairs.items() if pair
    }
    known = {mix: difference for mix, difference in found.items() if difference is not None}
    if not known:
        return Verdict("not run", "–", "no mix has both methods at FLoE's parameters")
    if any(len(pairs[mix]) < claim.seeds for mix in run):
        return Verdict("underpowered", "–", f"fewer than {claim.seeds} seeds at FLoE's parameters on a mix")
    adjusted = holm([difference.p for difference in known.values()])
    alpha, margin = 1 - evidence.confidence, MARGIN
    ours = "; ".join(f"{mix} {nats(d.difference, d.low, d.high)}" for mix, d in known.items())
    lower = [p is not None and p < alpha and d.difference < 0 for p, d in zip(adjusted, known.values(), strict=True)]
    higher = [p is not None and p < alpha and d.difference > 0 for p, d in zip(adjusted, known.values(), strict=True)]
    within = [max(abs(d.low), abs(d.high)) <= margin for d in known.values()]
    if all(lower):
        return Verdict("reproduced", ours, "NLL significantly lower than LoRA's on every mix")
    if any(higher):
        return Verdict("not reproduced", ours, "NLL significantly higher than LoRA's on a mix")
    if all(within):
        return Verdict("not reproduced", ours, f"the same NLL within {margin} nats")
    return Verdict("underpowered", ours, "not significant on every mix, nor surely the same")


def _matched(record: Record) -> bool:
    """Return whether the record's rank brought it within the tolerance of the matched method's parameters."""
    return record.plan.matched is not None and record.plan.matched.within_tolerance
