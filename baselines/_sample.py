"""Options to plan on other rows than the cell's own: another mix, a part of it, or a drifted sample."""

from pydantic import Field, model_validator

import floe_bench
from floe_bench import Sample


class SampleOptions(floe_bench.Options):
    """on: mix to plan on. part of parts: a disjoint share of its rows. drift: share of rows from drift_to."""

    on: str | None = Field(None, min_length=1)
    part: int = Field(0, ge=0)
    parts: int = Field(1, ge=1)
    drift_to: str | None = Field(None, min_length=1)
    drift: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _consistent(self) -> "SampleOptions":
        if self.part >= self.parts:
            raise ValueError(f"part={self.part} is not one of 0 to {self.parts - 1}")
        if self.drift and self.drift_to is None:
            raise ValueError("drift needs drift_to, the mix that the foreign rows come from")
        return self

    def mixes(self) -> tuple[str, ...]:
        return tuple(mix for mix in (self.on, self.drift_to) if mix)

    @property
    def sample(self) -> Sample:
        foreign = (self.drift_to, self.drift) if self.drift_to and self.drift else None
        return Sample(self.on, (self.part, self.parts), foreign)
