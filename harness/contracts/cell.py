"""One run of the grid, by name."""

from __future__ import annotations

from zlib import crc32

from floe_bench.harness.spec.base import Data


class Cell(Data):
    """One run of the grid.

    method: the canonical name with its options. varied: settings other than the profile's, by dotted name.
    """

    method: str
    mix: str
    seed: int
    varied: tuple[tuple[str, bool | int | float | str], ...] = ()

    def __hash__(self) -> int:
        return hash((self.method, self.mix, self.seed, self.varied))

    @property
    def differences(self) -> list[str]:
        """`varied` as text, settings too many to read as their number and a checksum."""
        if len(self.varied) > 4:
            return [f"{len(self.varied)} settings {crc32(repr(self.varied).encode()):08x}"]
        return [f"{key}={value}" for key, value in self.varied]

    @property
    def label(self) -> str:
        return " / ".join([self.mix, self.method, f"seed {self.seed}", *self.differences])
