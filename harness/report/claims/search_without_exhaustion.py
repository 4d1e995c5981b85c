"""TPE finds the best rank without exhaustive search

Rule: On the stored curves, TPE finds the grid's best rank in at least SHARE_FOUND of the searches. It trains at
most SHARE_TRAINED of the ranks.
"""

from __future__ import annotations

from statistics import fmean

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict

CLAIM = Claim(
    number=3,
    source="rank search",
    protocol="TPE over the integers 2 to 16, 100 trials",
    experiment="rank_search",
    records=3,
)
SHARE_FOUND = 0.9
SHARE_TRAINED = 0.75


def judge(evidence: Evidence, claim: Claim) -> Verdict:
    rows = evidence.rows("rank_search")
    found = fmean(row["found"] for row in rows)
    low, high = min(row["found_low"] for row in rows), max(row["found_high"] for row in rows)
    trained = fmean(row["unique_mean"] / row["ranks"] for row in rows)
    ours = (
        f"best rank in {found:.0%} [{low:.0%}, {high:.0%}] of {sum(row['searches'] for row in rows)} searches, "
        f"{trained:.0%} of the ranks trained"
    )
    if trained > SHARE_TRAINED:
        return Verdict("not reproduced", ours, f"it trains more than {SHARE_TRAINED:.0%} of the grid")
    if high < SHARE_FOUND:
        return Verdict("not reproduced", ours, f"it misses the best rank in over {1 - SHARE_FOUND:.0%}")
    ps = [row["friedman_p"] for row in evidence.rows("rank_search_flatness")]
    if low < SHARE_FOUND or any(p is None or p >= 1 - evidence.confidence for p in ps):
        return Verdict("underpowered", ours, "the curves do not tell their ranks from noise, or searches are too few")
    return Verdict("reproduced", ours, "the best rank found without training the whole grid")
