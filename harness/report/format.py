"""Numbers as text. A missing number is a dash."""

from __future__ import annotations

from typing import Any

import pandas as pd

MISSING = "–"


def number(value: float | None, digits: int = 0, sign: bool = False) -> str:
    """Fixed digits, thousands separated; a sign where asked for."""
    return MISSING if value is None or pd.isna(value) else f"{value:{'+' if sign else ''},.{digits}f}"


def count(value: float | None) -> str:
    """A whole number, thousands separated."""
    return number(value)


def percent(share: float | None) -> str:
    """A share as per cent: one digit, three significant below one per cent."""
    if share is None or pd.isna(share):
        return MISSING
    return f"{100 * share:.1f}" if share >= 0.01 or share == 0 else f"{100 * share:.3g}"


def megabytes(size: float | None) -> str:
    """Bytes as MB (10^6)."""
    return MISSING if size is None or pd.isna(size) else number(size / 1e6, 1)


def mean_sd(means: pd.Series, sds: pd.Series, digits: int) -> list[str]:
    """mean ± sd, or the mean alone where there is no sd."""
    return [_mean_sd(mean, sd, digits) for mean, sd in zip(means, sds, strict=True)]


def _mean_sd(mean: Any, sd: Any, digits: int) -> str:
    text = number(mean, digits)
    return text if pd.isna(sd) else f"{text} ± {sd:.{digits}f}"
