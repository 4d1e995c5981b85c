"""PEFT's LoRA on every layer."""

from peft import LoraConfig
from pydantic import Field

from harness import contracts
from harness.contracts import AdapterPlan, MethodInputs


class Options(contracts.Options):
    r: int | None = Field(None, ge=1)
    lora_alpha: float | None = Field(None, gt=0)
    target_modules: tuple[str, ...] | None = None


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    adapter = inputs.settings.adapter
    config = LoraConfig(
        r=options.r or adapter.r,
        lora_alpha=options.lora_alpha or adapter.lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=adapter.lora_dropout,
        target_modules=list(options.target_modules or adapter.target_modules),
        layers_to_transform=list(range(inputs.n_layers)),
        task_type="CAUSAL_LM",
    )
    return AdapterPlan("adapter", config)
