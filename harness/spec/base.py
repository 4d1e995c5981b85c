"""The base of all typed data: immutable, and strict about its fields."""

from __future__ import annotations

from pydantic import BaseModel


class Data(BaseModel, frozen=True, extra="forbid"):
    """Immutable data that is strict about its fields."""
