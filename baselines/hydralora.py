"""HydraLoRA: MoE-LoRA with a shared A on every layer (arXiv 2404.19245)."""

from pydantic import Field, model_validator

from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._match import MatchOptions, matched_rank
from floe_bench.baselines._stages import moe_lora


class Options(MatchOptions):
    r: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_rank(self) -> "Options":
        if self.r and self.match:
            raise ValueError("r and match both set the rank: leave one")
        return self


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    r, matched = matched_rank(inputs, options.match, lambda r: moe_lora(inputs, r=r))
    return AdapterPlan("adapter", moe_lora(inputs, r=r or options.r), matched=matched)
