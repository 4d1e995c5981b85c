"""The MoE-LoRA layer: a frozen linear map with a shared A, M experts B_i and a per-token router."""

from __future__ import annotations

from typing import Any, NoReturn, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from floe_bench.harness.floe.decoder import Linear

from .config import MoeLoraConfig
from .dropout import Dropout

MERGE_ERROR = (
    "MoE-LoRA cannot be merged: its router weighs the experts by each token's input, so no fixed weight "
    "equals the adapted layer; keep the adapter, or drop it with unload()."
)


def gates(logits: torch.Tensor) -> torch.Tensor:
    """Return the expert weights w = softmax(R x) per token (..., M), in float32 for any dtype of `logits`."""
    return torch.softmax(logits, dim=-1, dtype=torch.float32)


class MoeLoraLayer(BaseTunerLayer):
    """The parts of a MoE-LoRA layer: for each adapter A, the stacked experts B and the router R.

    All are `nn.Linear`s without bias. Their weights are `moe_lora_A` (r, d_in), `moe_lora_B` (d_out, M·r) and,
    for M > 1, `moe_lora_router` (M, d_in). Expert i = 0..M-1 fills columns i·r to (i+1)·r of `moe_lora_B`.

    Attributes:
        mask: the layer mask m_k, a factor on the update of every active adapter. None stands for 1. Otherwise a
            tensor, scalar or (B,) for B samples. It may carry gradients. It is no parameter and is never saved.
    """

    adapter_layer_names = ("moe_lora_A", "moe_lora_B", "moe_lora_router")
    other_param_names = ("r", "lora_alpha", "num_experts", "scaling", "moe_lora_dropout")

    def __init__(self, base_layer: Linear) -> None:
        self.base_layer = base_layer
        shape = base_layer.weight.shape
        self.out_features, self.in_features = shape[::-1] if isinstance(base_layer, Conv1D) else shape
        self.r: dict[str, int] = {}
        self.lora_alpha: dict[str, float] = {}
        self.num_experts: dict[str, int] = {}
        self.scaling: dict[str, float] = {}
        self.moe_lora_A = nn.ModuleDict()
        self.moe_lora_B = nn.ModuleDict()
        self.moe_lora_router = nn.ModuleDict()
        self.moe_lora_dropout = nn.ModuleDict()
        self.mask: torch.Tensor | None = None
        self._disable_adapters = False
        self.merged_adapters = []

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: float, num_experts: int, config: MoeLoraConfig
    ) -> None:
        """Add the adapter `adapter_name`: A and R kaiming-uniform (a = √5), every B_i at 0."""
        self.r[adapter_name] = r
        self.lora_alpha[adapter_name] = lora_alpha
        self.num_experts[adapter_name] = num_experts
        self.scaling[adapter_name] = lora_alpha / r
        dropout = Dropout(config.lora_dropout) if config.lora_dropout > 0 else nn.Identity()
        self.moe_lora_dropout[adapter_name] = dropout
        # nn.Linear starts kaiming-uniform with a = √5 by default.
        self.moe_lora_A[adapter_name] = nn.Linear(self.in_features, r, bias=False)
        if num_experts > 1:  # the softmax over one expert is always 1, so a router could not learn
            self.moe_lora_router[adapter_name] = nn.Linear(self.in_features, num_experts, bias=False)
        experts = nn.Linear(num_experts * r, self.out_features, bias=False)
        if config.init_weights:
            nn.init.zeros_(experts.weight)
        self.moe_lora_B[adapter_name] = experts
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def enabled_adapters(self) -> list[str]:
        """Return the names of the adapters that take part in this layer's forward pass."""
        if self.disable_adapters:
            return []
        return [name for name in self.active_adapters if name in self.moe_lora_A]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> NoReturn:
        """Raise ValueError: the router depends on the input, so it does not fold into W."""
        raise ValueError(MERGE_ERROR)

    def unmerge(self) -> NoReturn:
        """Raise ValueError: nothing can have been merged."""
        raise ValueError(MERGE_ERROR)

    def _scale(self, adapter_name: str, x: torch.Tensor) -> float | torch.Tensor:
        """Return m_k · α / r, broadcastable over the gates (..., M) of the input x (..., d_in).

        Some models flatten a batch of B samples to (B · T, d_in) before a module: OPT, and MoE's shared experts. Each
        sample's tokens follow one another there.
        """
        if self.mask is None:
            return self.scaling[adapter_name]
        if self.mask.dim() == 0:
            return self.scaling[adapter_name] * self.mask
        mask = self.mask
        if x.dim() == 2 and mask.dim() == 1 and len(x) % len(mask) == 0:
            mask = mask.repeat_interleave(len(x) // len(mask))
        if mask.shape != x.shape[:1]:
            raise ValueError(
                f"The mask must be a scalar or of shape ({x.shape[0]},), the first dimension of the input, "
                f"got shape {tuple(mask.shape)}."
            )
        return self.scaling[adapter_name] * mask.view(-1, *[1] * (x.dim() - 1))


class MoeLoraLinear(nn.Module, MoeLoraLayer):
    """y = W x + m · (α/r) · Σ_i w_i B_i A drop(x), w = softmax(R x) per token (HydraLoRA, arXiv 2404.19245).

    Args:
        base_layer: the frozen W.
        adapter_name: name of the first adapter.
        r, lora_alpha, num_experts: sizes for this module.
        config: the adapter's configuration (dropout, initial weights, inference mode).
    """

    def __init__(
        self,
        base_layer: Linear,
        adapter_name: str,
        r: int,
        lora_alpha: float,
        num_experts: int,
        config: MoeLoraConfig,
    ) -> None:
        super().__init__()
        MoeLoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha, num_experts, config)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map x (..., d_in) to shape (..., d_out) with the adapters. The dtype is that of the base layer's output."""
        if not self.enabled_adapters:
            return self.base_layer(x, *args, **kwargs)
        # The result is a matrix, so that addmm_ can add the update in place. An input that is not contiguous goes to
        # the base layer as it is, because the product with a copy of it rounds otherwise.
        if x.is_contiguous():
            result = self.base_layer(x.flatten(0, -2), *args, **kwargs)
        else:
            result = self.base_layer(x, *args, **kwargs).flatten(0, -2)
        dtype = result.dtype
        for adapter_name in self.enabled_adapters:
            weighted = self._gated_hidden(adapter_name, x).flatten(0, -2)
            experts = cast(nn.Linear, self.moe_lora_B[adapter_name]).weight
            if weighted.dtype == result.dtype:
                result.addmm_(weighted, experts.to(dtype).T)
            else:
                result = result + nn.functional.linear(weighted, experts)
        return result.to(dtype).view(*x.shape[:-1], self.out_features)

    def _gated_hidden(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """Return m · (α/r) · w ⊗ A x (..., M·r). Its product with [B_1 … B_M] is the adapter's share of the output."""
        lora_A = cast(nn.Linear, self.moe_lora_A[adapter_name])
        x = self._cast_input_dtype(x, _compute_dtype(x, lora_A.weight))
        hidden = lora_A(self.moe_lora_dropout[adapter_name](x))
        # Scale the gates: they are small, and their float32 gives the mask a float32 gradient.
        gate = self._gate(adapter_name, x) * self._scale(adapter_name, x)
        return (gate.to(hidden.dtype).unsqueeze(-1) * hidden.unsqueeze(-2)).flatten(-2)

    def _gate(self, adapter_name: str, x: torch.Tensor) -> torch.Tensor:
        """Return w (..., M) in float32. It is 1 for a single expert, which has no router."""
        if adapter_name not in self.moe_lora_router:
            return x.new_ones((*x.shape[:-1], 1), dtype=torch.float32)
        return gates(self.moe_lora_router[adapter_name](x))


def _compute_dtype(x: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """Return the dtype of the adapter's products: autocast's where it is on, else that of `weight`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
