"""Provide the base class of all typed data."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict


class Data(BaseModel):
    """Hold immutable data; refuse fields that the class does not declare, and numbers that are not finite."""

    # "constants" keeps a NaN in untyped values as it is, for the writer to refuse. The default would write null.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


def is_recordable(value: Any) -> bool:
    """Tell whether a record can hold the value: text in UTF-8, finite numbers, whole ones of 64 bits."""
    match value:
        case str():
            return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
        case bool() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
        case dict():
            return all(is_recordable(part) for pair in value.items() for part in pair)
        case list() | tuple():
            return all(map(is_recordable, value))
        case _:
            return isinstance(value, BaseModel)
