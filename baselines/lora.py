"""PEFT's LoRA on every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._match import MatchOptions, matched_rank

if TYPE_CHECKING:
    from peft import LoraConfig


class Options(MatchOptions):
    r: int | None = Field(None, ge=1)
    lora_alpha: float | None = Field(None, gt=0)
    target_modules: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_rank(self) -> Options:
        if self.r and self.match:
            raise ValueError("r and match both set the rank: leave one")
        return self


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    from peft import LoraConfig

    adapter = inputs.settings.adapter

    def config(r: int) -> LoraConfig:
        return LoraConfig(
            r=r,
            lora_alpha=options.lora_alpha or adapter.lora_alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=adapter.lora_dropout,
            target_modules=list(options.target_modules or adapter.target_modules),
            layers_to_transform=list(range(inputs.n_layers)),
            task_type="CAUSAL_LM",
        )

    r, matched = matched_rank(inputs, options.match, config)
    return AdapterPlan("adapter", config(r or options.r or adapter.r), matched=matched)
