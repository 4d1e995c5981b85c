"""The base of all typed data: immutable, and strict about its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    pass


class Data(BaseModel, frozen=True, extra="forbid"):
    """Immutable data that is strict about its fields."""
