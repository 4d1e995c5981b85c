"""The option `match`: choose the rank that gives as many trainable parameters as another method plans.

lora_alpha stays as set while r varies, as it does at every rank of the search.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

import floe_bench
from floe_bench import Matched, MethodInputs, UsageError

if TYPE_CHECKING:
    from peft import PeftConfig

TOLERANCE = 0.02


class MatchOptions(floe_bench.Options):
    """match: the method whose trainable parameters are matched."""

    match: str | None = Field(None, min_length=1)

    def methods(self) -> tuple[str, ...]:
        return (self.match,) if self.match else ()


def matched_rank(
    inputs: MethodInputs, match: str | None, config_at: Callable[[int], "PeftConfig"]
) -> tuple[int | None, Matched | None]:
    """Return the r >= 1 whose trainable parameters come nearest to the matched method's, and how near they come.

    Trainable parameters are affine in r. So two counts give the line, and its solution lies between two ranks.
    Returns (None, None) where nothing is to be matched. Raises UsageError for a method that trains nothing.
    """
    if match is None:
        return None, None
    target = inputs.planned_trainable(match)
    if not target:
        raise UsageError(f"option match: method '{match}' trains nothing, so no rank matches it: name one that trains")
    one, two = (inputs.trainable(config_at(r)) for r in (1, 2))
    below = max(1, 1 + (target - one) // (two - one))
    counts = {r: one + (r - 1) * (two - one) for r in (below, below + 1)}
    r = min(counts, key=lambda r: abs(counts[r] - target))
    ratio = counts[r] / target
    near = abs(ratio - 1) <= TOLERANCE
    return r, Matched(method=match, target=target, ratio=ratio, within_tolerance=near)
