"""Layer masks m_k as leaf tensors, so that an ordinary backward pass gives ∂ℓ/∂m."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .layer import MoeLoraLayer


@contextmanager
def layer_masks(model: nn.Module, batch_size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Set a mask of ones on every adapted module, one entry per sample, layer and module.

    Row n of the masks' gradient belongs to sample n alone. This needs a loss that sums per-sample losses, and
    samples that do not read each other.

    All modules of layer k share m_k, so g_n = ∂ℓ_n/∂m = `masks.grad[n].sum(-1)`, in R^L.
    The update is linear in B, so Σ_n g_nk = Σ_{modules of layer k} ⟨∂ℓ/∂B, B⟩.

    Run forward and backward inside the context. Active adapters of one module share its mask. Exit restores
    earlier masks.

    Args:
        model: a model with at least one active MoE-LoRA adapter.
        batch_size: B, the first dimension of every adapted module's input.

    Yields:
        masks: float32 leaf of ones, shape (B, L, J) for L adapted layers of J adapted modules; entry
            [:, k, j] belongs to the k-th adapted layer's j-th module in sorted name order.
        layer_indices: the 0-based decoder layer numbers of the L adapted layers, ascending.

    Raises:
        ValueError: batch_size < 1, no adapter is active, an adapted module lies in no numbered layer, or
            layers have different numbers of adapted modules.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    layers = _adapted_layers(model)
    modules_per_layer = {len(modules) for modules in layers.values()}
    if len(modules_per_layer) > 1:
        counts = {layer: len(modules) for layer, modules in layers.items()}
        raise ValueError(f"Every adapted layer must have as many adapted modules, got per layer {counts}.")
    device = next(iter(layers.values()))[0].weight.device
    masks = torch.ones(batch_size, len(layers), modules_per_layer.pop(), device=device, requires_grad=True)
    previous = [(module, module.mask) for modules in layers.values() for module in modules]
    try:
        for k, modules in enumerate(layers.values()):
            for j, module in enumerate(modules):
                module.mask = masks[:, k, j].to(module.weight.device)
        yield masks, list(layers)
    finally:
        for module, mask in previous:
            module.mask = mask


def _adapted_layers(model: nn.Module) -> dict[int, list[MoeLoraLayer]]:
    """Return layer number -> its modules with an enabled adapter, in sorted name order, by ascending layer."""
    layers: dict[int, list[MoeLoraLayer]] = {}
    for name, module in sorted(model.named_modules(), key=lambda item: item[0]):
        if isinstance(module, MoeLoraLayer) and module.enabled_adapters:
            layers.setdefault(_layer_number(name), []).append(module)
    if not layers:
        raise ValueError("The model has no active MoE-LoRA adapter to mask; add or enable one first.")
    return dict(sorted(layers.items()))


def _layer_number(name: str) -> int:
    """Return the first number in a module's path, as PEFT does for `layers_to_transform`."""
    match = re.search(r"\.(\d+)\.", name)
    if match is None:
        raise ValueError(f"The adapted module {name} lies in no numbered layer, so it has no layer mask.")
    return int(match[1])
