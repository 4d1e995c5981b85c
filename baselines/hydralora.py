"""HydraLoRA: MoE-LoRA with a shared A on every layer (arXiv 2404.19245)."""

from pydantic import Field

from baselines._stages import moe_lora
from harness import contracts
from harness.contracts import AdapterPlan, MethodInputs


class Options(contracts.Options):
    r: int | None = Field(None, ge=1)


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    return AdapterPlan("adapter", moe_lora(inputs, r=options.r))
