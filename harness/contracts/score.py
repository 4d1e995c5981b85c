"""Define what an evaluation returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from floe_bench.harness.spec.base import Data

if TYPE_CHECKING:
    import pandas as pd


class Score(Data):
    """Hold one evaluation of one model.

    Attributes:
        metrics: name -> value, e.g. acc, acc_stem, nll_dolly.
        chance: accuracy of guessing; None where items are not right or wrong.
        n_items: number of items.
        tokens: tokens through the model.
        seconds: wall seconds.
    """

    metrics: dict[str, float]
    chance: float | None = None
    n_items: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Scored:
    """Hold an evaluation's score, and one line per item for paired statistics."""

    score: Score
    items: pd.DataFrame
