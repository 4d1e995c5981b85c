"""Collect router statistics during ordinary forward passes: mean gate per expert and entropy of the gates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from .layer import MoeLoraLayer, gates


class GateStatistics(NamedTuple):
    """The gates of one module over the tokens it saw.

    mean_gate: mean weight per expert, shape (M,), float64, summing to 1.
    entropy: mean over tokens of -Σ_i w_i ln w_i, in nats, between 0 and ln M.
    tokens: number of tokens.
    """

    mean_gate: torch.Tensor
    entropy: float
    tokens: int


class GateCollector:
    """Running sums of the gates, by module.

    Attributes:
        token_mask: shape (B, T). The caller sets it before a forward pass; only tokens where it is non-zero
            count. None counts all tokens.
    """

    def __init__(self) -> None:
        self.token_mask: torch.Tensor | None = None
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, module_name: str, logits: torch.Tensor) -> None:
        """Add the tokens of one forward pass. `logits` are the router's, shape (..., M).

        Raises:
            ValueError: the shape of `token_mask` is not that of the tokens in `logits`.
        """
        gate = gates(logits.detach())
        entropy = torch.special.entr(gate).sum(-1, keepdim=True)
        # The column of ones counts the tokens.
        rows = torch.cat([gate, entropy, torch.ones_like(entropy)], dim=-1)
        if self.token_mask is not None:
            if self.token_mask.shape != logits.shape[:-1]:
                raise ValueError(
                    f"token_mask must have the shape of the tokens in {module_name}, "
                    f"{tuple(logits.shape[:-1])}, got {tuple(self.token_mask.shape)}."
                )
            left_out = self.token_mask.to(rows.device) == 0
            rows = rows.masked_fill(left_out.unsqueeze(-1), 0)
        total = rows.flatten(0, -2).sum(0, dtype=torch.float64)
        self._sums[module_name] = self._sums.get(module_name, 0) + total

    def result(self) -> dict[str, GateStatistics]:
        """Return the statistics so far, by module name. Omits modules that saw no token."""
        totals = {name: total.cpu() for name, total in self._sums.items()}
        return {
            name: GateStatistics(total[:-2] / total[-1], float(total[-2] / total[-1]), int(total[-1]))
            for name, total in totals.items()
            if total[-1] > 0
        }


@contextmanager
def gate_statistics(model: nn.Module, adapter_name: str = "default") -> Iterator[GateCollector]:
    """Collect the gates of `adapter_name` in every forward pass inside the context.

    Hooks on the routers read the gates, so there is no second forward pass and no cost outside the context.
    Forward passes that gradient checkpointing repeats during backward do not count again.

    Yields:
        the collector; `collector.result()` maps module names (as in `model.named_modules()`) to statistics.

    Raises:
        ValueError: no module of `model` holds the adapter.
    """
    routers = {
        name: module.moe_lora_router[adapter_name]
        for name, module in model.named_modules()
        if isinstance(module, MoeLoraLayer) and adapter_name in module.moe_lora_router
    }
    if not routers:
        raise ValueError(f"The model has no MoE-LoRA adapter named {adapter_name!r}.")
    collector = GateCollector()
    handles = [router.register_forward_hook(_listener(collector, name)) for name, router in routers.items()]
    try:
        yield collector
    finally:
        for handle in handles:
            handle.remove()


def _listener(collector: GateCollector, module_name: str):
    def listen(router: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
        # Skip repeated forward passes. torch's checkpointing detects a backward pass by the same test.
        if torch._C._current_graph_task_id() == -1:
            collector.add(module_name, logits)

    return listen
