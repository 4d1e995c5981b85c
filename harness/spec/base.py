"""Provide the base class of all typed data."""

from __future__ import annotations

from pydantic import BaseModel


class Data(BaseModel, frozen=True, extra="forbid"):
    """Hold immutable data; refuse fields that the class does not declare."""
