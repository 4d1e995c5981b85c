"""What enters the lowest adapted layer is a function of the batch alone: computed once, reused by every adapter.

With adapters on layers k ≥ k0 only, the layers below are the frozen base model's. Trainings of several adapters on
the same batches, as a rank search makes, run them once per batch instead of once per batch and adapter.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .decoder import decoder_layers

MAX_BYTES = 2 * 2**30
"""Of the CPU's memory: a rank search's 768 rows of 190 tokens hold 0.2 GB on SmolLM2-135M, 1.2 GB on LLaMA2-7B."""

Layer = Callable[..., torch.Tensor]


def lowest_adapted_layer(model: nn.Module) -> int:
    """The least k with an adapter or a trainable parameter in decoder layer k; 0 where one lies outside them all."""
    place = {module: k for k, layer in enumerate(decoder_layers(model)) for module in layer.modules()}
    changed = (
        module
        for module in model.modules()
        if isinstance(module, BaseTunerLayer) or any(p.requires_grad for p in module.parameters(recurse=False))
    )
    return min((place.get(module, 0) for module in changed), default=0)


@dataclass
class _Pass:
    """One forward pass of the decoder.

    key: identifies all that its hidden states depend on; None where they are neither known nor to be kept.
    kept: the hidden states that enter layer k0, where they are known.
    random_state: before the pass, to see whether the layers below drew from it.
    """

    key: bytes | None = None
    kept: torch.Tensor | None = None
    random_state: list[torch.Tensor] = field(default_factory=list)


class FrozenPrefix:
    """Keeps the hidden states that enter the lowest adapted layer k0, for one base model and one k0 at a time.

    They are kept in the CPU's memory, up to `max_bytes`; once full, nothing is added. Reuse is exact, bit for bit:
    a batch is known by the content of all that the decoder is called with, under the same autocast, training and
    gradient modes. Passes that draw random numbers below k0 (attention dropout), whose hidden states need a
    gradient there, or that return a cache or every layer's hidden states, run in full.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: dict[bytes, torch.Tensor] = {}
        self._owner: tuple[Hashable, ...] = ()

    @property
    def batches(self) -> int:
        """How many are kept."""
        return len(self._kept)

    @contextmanager
    def reused(self, model: nn.Module, scope: Hashable = None) -> Iterator[None]:
        """Within it, the layers below the lowest adapted one run only for batches that were not seen before.

        What was kept for another base model, another lowest layer or another `scope`, which names what the batches
        serve for, is dropped. The base model must be frozen and stay the same from use to use; adapters may not be
        moved within. Not for gradient checkpointing, which runs layers a second time.
        """
        layers = decoder_layers(model)
        k0 = lowest_adapted_layer(model)
        self._own((weakref.ref(layers), k0, scope))
        if k0 == 0:
            yield
            return
        below = list(layers)[:k0]
        decoder = next(module for module in model.modules() if getattr(module, "layers", None) is layers)
        current = _Pass()

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            current.key = _key(module, args, kwargs)
            current.kept = self._kept.get(current.key) if current.key else None
            current.random_state = _random_state(next(module.parameters()).device)

        before = [layer.__dict__.get("forward") for layer in below]
        handle = decoder.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            for layer in below[:-1]:
                layer.forward = partial(_unless_known, current, layer.forward)
            below[-1].forward = partial(self._known_or_kept, current, below[-1].forward)
            yield
        finally:
            handle.remove()
            for layer, forward in zip(below, before, strict=True):
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.forward = forward

    def _own(self, owner: tuple[Hashable, ...]) -> None:
        if owner != self._owner:
            self._kept.clear()
            self.bytes = 0
            self._owner = owner

    def _known_or_kept(
        self, current: _Pass, forward: Layer, hidden: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The layer below k0: its output of an earlier pass, or that of this one, which is kept."""
        key, kept = current.key, current.kept
        current.key = current.kept = None  # a pass that did not enter by the decoder itself is not this one
        if kept is not None:
            return kept.to(hidden.device)
        output = forward(hidden, *args, **kwargs)
        exact = not output.requires_grad and all(map(torch.equal, current.random_state, _random_state(output.device)))
        if key is not None and exact and self.bytes + output.nbytes <= self.max_bytes:
            self._kept[key] = output.cpu()
            self.bytes += output.nbytes
        return output


def _unless_known(current: _Pass, forward: Layer, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """A layer further down, not run where the hidden states above it are known."""
    return hidden if current.kept is not None else forward(hidden, *args, **kwargs)


def _key(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """A digest of the arguments and of the modes that change numbers; None for a pass that has to run in full."""
    returned = ("use_cache", "output_hidden_states", "output_attentions")
    if any(_asked(decoder, kwargs, name) for name in returned):
        return None
    arguments = [*enumerate(args), *sorted(kwargs.items())]
    if not all(value is None or isinstance(value, (torch.Tensor, bool, int, float, str)) for _, value in arguments):
        return None
    device = next(decoder.parameters()).device.type
    modes = (
        decoder.training,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled(device),
        torch.get_autocast_dtype(device),
    )
    found = hashlib.sha256(repr(modes).encode())
    for name, value in arguments:
        if isinstance(value, torch.Tensor):
            found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            found.update(f"{name} {value!r} ".encode())
    return found.digest()


def _asked(decoder: nn.Module, kwargs: dict[str, Any], name: str) -> bool:
    value = kwargs.get(name)
    return bool(getattr(decoder.config, name, None) if value is None else value)


def _random_state(device: torch.device) -> list[torch.Tensor]:
    """Of all generators that a layer on the device may draw from."""
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]
