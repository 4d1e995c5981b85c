"""Judge the claims of the paper (arXiv 2506.00495), one file each.

The docstring says the claim and its rule; `CLAIM` says what a verdict asks for. `judge(evidence, claim) -> Verdict`
is the rule. An interval decides, not a point. The verdict is "reproduced" where the whole interval allows it,
"not reproduced" where no part of it does, and "underpowered" otherwise.
"""
