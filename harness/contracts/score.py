"""What an evaluation returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from floe_bench.harness.spec.base import Data

if TYPE_CHECKING:
    import pandas as pd


class Score(Data):
    """One evaluation of one model.

    metrics: name -> value, e.g. acc, acc_stem, nll_dolly. chance: accuracy of guessing, where it has one.
    """

    metrics: dict[str, float]
    chance: float | None = None
    n_items: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Scored:
    """What an evaluation returns: its score, and one line per item for paired statistics."""

    score: Score
    items: pd.DataFrame
