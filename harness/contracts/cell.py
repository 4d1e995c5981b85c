"""Name one run of the grid."""

from __future__ import annotations

from zlib import crc32

from floe_bench.harness.spec.base import Data


class Cell(Data):
    """Name one run of the grid.

    Attributes:
        method: canonical name with its options.
        mix: name of the data mix.
        seed: seed of the run.
        varied: (dotted name, value) of each setting that differs from the profile's.
    """

    method: str
    mix: str
    seed: int
    varied: tuple[tuple[str, bool | int | float | str], ...] = ()

    def __hash__(self) -> int:
        return hash((self.method, self.mix, self.seed, self.varied))

    @property
    def differences(self) -> list[str]:
        """Return `varied` as text. More than four settings become their number and a checksum."""
        if len(self.varied) > 4:
            return [f"{len(self.varied)} settings {crc32(repr(self.varied).encode()):08x}"]
        return [f"{key}={value}" for key, value in self.varied]

    @property
    def label(self) -> str:
        return " / ".join([self.mix, self.method, f"seed {self.seed}", *self.differences])
