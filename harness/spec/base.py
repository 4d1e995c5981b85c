"""Provide the base class of all typed data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Data(BaseModel):
    """Hold immutable data; refuse fields that the class does not declare, and numbers that are not finite."""

    # "constants" keeps a NaN in untyped values as it is, for the writer to refuse. The default would write null.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")
