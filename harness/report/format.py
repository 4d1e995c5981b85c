"""Write numbers as text. A missing number is a dash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

MISSING = "–"


def number(value: float | None, digits: int = 0, sign: bool = False) -> str:
    """Write a number with fixed decimals and separated thousands; with its sign where asked for."""
    return MISSING if value is None or pd.isna(value) else f"{value:{'+' if sign else ''},.{digits}f}"


def digits(n: int, sign: bool = False) -> Callable[[float | None], str]:
    """Return `number` with n decimals, to format a column by."""
    return lambda value: number(value, n, sign)


def count(value: float | None) -> str:
    """Write a whole number with separated thousands."""
    return number(value)


def percent(share: float | None) -> str:
    """Write a share in per cent: with one decimal, or with three significant digits below one per cent."""
    if share is None or pd.isna(share):
        return MISSING
    return f"{100 * share:.1f}" if share >= 0.01 or share == 0 else f"{100 * share:.3g}"


def megabytes(size: float | None) -> str:
    """Write bytes in MB (10^6), with one decimal."""
    return MISSING if size is None or pd.isna(size) else number(size / 1e6, 1)


def mean_sd(means: Iterable[Any], sds: Iterable[Any], digits: int, scale: float = 1) -> list[str]:
    """Write each mean ± sd, both multiplied by `scale`; the mean alone where there is no sd."""
    return [
        number(mean if pd.isna(mean) else scale * mean, digits) + ("" if pd.isna(sd) else f" ± {scale * sd:.{digits}f}")
        for mean, sd in zip(means, sds, strict=True)
    ]
