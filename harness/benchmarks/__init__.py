"""Benchmarks: each file here compares a fast path with a peer, both measured in one run.

A benchmark is a module with `run(bench: Bench) -> Iterator[Measurement]`. Its docstring's first line says what it
compares. One that cannot run everywhere also has `unavailable(bench) -> str | None`, which says what it lacks.
Times belong to the machine that took them, ratios less so. So a target is a ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from floe_bench.harness.spec.base import Data
from floe_bench.harness.training.peak_memory import peak_memory

if TYPE_CHECKING:
    import torch

Side = Callable[[], object]


class Measurement(Data):
    """What was measured of two or more sides, round by round.

    what: the case. values: side -> one value per round, in `unit`.
    ratio: (numerator, denominator), two sides. The ratio is the median over rounds of the quotient in a round.
    at_most, at_least: the target. Without one the ratio is only shown.
    notes: further facts of the case, JSON-able.
    """

    what: str
    values: dict[str, list[float]]
    unit: str = "s"
    ratio: tuple[str, str] | None = None
    at_most: float | None = None
    at_least: float | None = None
    notes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_whole(self) -> Measurement:
        lengths = {side: len(values) for side, values in self.values.items()}
        if not lengths or min(lengths.values()) < 1:
            raise ValueError(f"{self.what}: every side needs a value, got {lengths}")
        if self.ratio:
            missing = set(self.ratio) - set(self.values)
            if missing or lengths[self.ratio[0]] != lengths[self.ratio[1]]:
                raise ValueError(f"{self.what}: a ratio needs as many values of both sides, got {lengths}")
        elif self.at_most is not None or self.at_least is not None:
            raise ValueError(f"{self.what}: a target is a ratio's, and there is none")
        return self

    @property
    def quotients(self) -> list[float]:
        """Return the ratio in each round."""
        if self.ratio is None:
            return []
        numerator, denominator = (self.values[side] for side in self.ratio)
        return [a / b for a, b in zip(numerator, denominator, strict=True)]

    @property
    def met(self) -> bool | None:
        """Return whether the median ratio meets the target. None without a target."""
        if self.at_most is None and self.at_least is None:
            return None
        value = median(self.quotients)
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True)
class Bench:
    """What a benchmark works with.

    folder: for files that are gone after the run. data_dir: a folder of real rows, where there is one.
    against: another checkout of this project, for the benchmark that compares two.
    """

    folder: Path
    progress: Callable[[str], None]
    repeats: int = 5
    data_dir: Path | None = None
    against: Path | None = None

    @property
    def device(self) -> torch.device:
        """Return the accelerator where there is one, else the CPU."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def alternate(
        self, sides: Mapping[str, Side], repeats: int | None = None, warm_up: bool = True
    ) -> dict[str, list[float]]:
        """Measure wall seconds of each side in turn. The order reverses in every other round.

        Each side first runs once unmeasured. Sides that run for long need no such `warm_up`.
        """
        return self._in_turn(sides, self._seconds, repeats, warm_up)

    def peak(self, sides: Mapping[str, Side], repeats: int | None = None) -> dict[str, list[float]]:
        """Measure peak bytes of each side over what was there when it started, in the same order."""
        return self._in_turn(sides, _peak_bytes, repeats)

    def _in_turn(
        self, sides: Mapping[str, Side], measure: Callable[[Side], float], repeats: int | None, warm_up: bool = True
    ) -> dict[str, list[float]]:
        for side in sides.values() if warm_up else ():
            side()
        values: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(self.repeats if repeats is None else repeats):
            for name in _order(list(sides), number):
                values[name].append(measure(sides[name]))
        return values

    def _seconds(self, side: Side) -> float:
        synchronize = _synchronizer(self.device.type)
        synchronize()
        start = time.perf_counter()
        side()
        synchronize()
        return time.perf_counter() - start


def _order(names: Sequence[str], number: int) -> Sequence[str]:
    return names if number % 2 == 0 else names[::-1]


def _peak_bytes(side: Side) -> float:
    with peak_memory() as peak:
        side()
    return float(max(1, peak.bytes))


def _synchronizer(device: Literal["cuda", "cpu"] | str) -> Callable[[], None]:
    """Return what waits for the device's work to end."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None
