"""The paper's claims: one file each. Its docstring says the claim and the rule, `CLAIM` what a verdict asks for.

`judge(evidence, claim) -> Verdict` is the rule. An interval decides, not a point: reproduced where the whole interval
allows it, not reproduced where none of it does, underpowered where it says neither.
"""
