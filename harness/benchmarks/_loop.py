"""HydraLoRA's form of the MoE-LoRA layer: a loop over the experts, as its code has it (arXiv 2404.19245)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from floe_bench.harness.floe.tuner import MoeLoraLinear


class LoopedMoeLora(nn.Module):
    """Computes what a `MoeLoraLinear` does, with its very parameters, one expert after the other.

    Each expert reads A of the input afresh, under its own dropout mask, and makes a full (tokens, d_out) output.
    """

    def __init__(self, layer: MoeLoraLinear, adapter_name: str = "default") -> None:
        super().__init__()
        self.base_layer = layer.base_layer
        self.A = cast(nn.Linear, layer.moe_lora_A[adapter_name])
        self.B = cast(nn.Linear, layer.moe_lora_B[adapter_name])
        self.router = cast(nn.Linear, layer.moe_lora_router[adapter_name])
        self.dropout = nn.Dropout(getattr(layer.moe_lora_dropout[adapter_name], "p", 0.0))
        self.r = layer.r[adapter_name]
        self.scaling = layer.scaling[adapter_name]

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x (..., d_in) to (..., d_out)."""
        result = self.base_layer(x)
        dtype = result.dtype
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.A.weight.dtype)
        route_weight = torch.softmax(self.router(x), dim=-1, dtype=torch.float32).to(result.dtype)
        for i, B in enumerate(self.B.weight.split(self.r, dim=1)):
            update = nn.functional.linear(self.A(self.dropout(x)), B)
            result = result + route_weight[..., i : i + 1] * update * self.scaling
        return result.to(dtype)


def loop_over_experts(model: nn.Module) -> None:
    """Replace every MoE-LoRA layer of the model by the loop."""
    for name, module in list(model.named_modules()):
        if isinstance(module, MoeLoraLinear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, LoopedMoeLora(module))
