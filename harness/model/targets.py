"""Tell which modules of a model an adapter can target, and refuse names that it has not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness.errors import UsageError
from floe_bench.harness.floe.feed_forward import FEED_FORWARD, GATED
from floe_bench.harness.spec.settings import Settings

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


READ_BY_KERNELS = dict.fromkeys(("falcon_mamba", "mamba", "mamba2"), ("x_proj", "dt_proj", "out_proj"))
"""Model type -> linear modules whose weights the state-space kernels read themselves, past any adapter."""


def with_own_feed_forward(settings: Settings) -> Settings:
    """Return the settings with the feed-forward's names of the model's own family, where they say Llama's.

    Names that are given, or of a family that FEED_FORWARD does not know, stay.
    """
    adapter = settings.adapter
    own = FEED_FORWARD.get(_model_type(settings) or "", GATED)
    if adapter.target_modules != GATED or own == GATED:
        return settings
    return settings.model_copy(update={"adapter": adapter.model_copy(update={"target_modules": own})})


def _model_type(settings: Settings) -> str | None:
    """Return the model type of the configuration, read without transformers; None where there is none."""
    config: Any = settings.model.config
    if settings.model.path is not None:
        try:
            config = json.loads((Path(settings.model.path) / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):  # whoever needs the configuration says what is wrong with it
            return None
    found = config.get("model_type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None


def check_targets(model: Any, config: PeftConfig) -> None:
    """Hold the adapter's targets against the model's decoder layers.

    Raises:
        UsageError: a target matches no linear module, or leaves out experts beside it. It names what there is.
    """
    targets = config.target_modules  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(targets, (set, list, tuple)):
        return
    linear, fused = _linear_modules(model), sorted(_fused_experts(model))
    for target in sorted(targets):
        found = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not found:
            raise UsageError(
                f"target module '{target}' matches no linear module that can be adapted; {_offer(model, linear, fused)}"
            )
        beside = [name for name in found if "." not in target and _beside(name, fused)]
        if beside:
            raise UsageError(
                f"target module '{target}' is {_in_layer(beside[0])} alone, without the experts; "
                f"{_offer(model, linear, fused)}"
            )


def _offer(model: Any, linear: list[str], fused: list[str]) -> str:
    """Name the linear modules of the model's layers, and the setting that adapts the likeliest of them."""
    from floe_bench.harness.floe.decoder import decoder_layers

    kind, layers = model.config.model_type, len(decoder_layers(model))
    names = [_in_layer(name) for name in linear]
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    everywhere = [
        name.rpartition(".")[2]
        for name in dict.fromkeys(names)
        if names.count(name) == layers and not _beside(name, fused)
    ]
    offered = FEED_FORWARD.get(kind, tuple(everywhere))
    experts = f", and experts fused into {_in_layer(fused[0])}, which no adapter here changes" if fused else ""
    has = f"the layers of a {kind} have {', '.join(known) or 'none'}{experts}"
    return f"{has}: --set adapter.target_modules={','.join(offered)}" if offered else has


def _linear_modules(model: Any) -> list[str]:
    """Return the paths of the linear modules within the decoder layers that an adapter can be added to."""
    from floe_bench.harness.floe.decoder import LINEAR

    passed_by = READ_BY_KERNELS.get(model.config.model_type, ())
    linear = (name for name, module in _in_layers(model) if isinstance(module, LINEAR))
    return [name for name in linear if name.rpartition(".")[2] not in passed_by]


def _fused_experts(model: Any) -> Iterator[str]:
    """Yield the paths of the parameters that stack the weights of several experts."""
    from torch.nn.modules.conv import _ConvNd

    for path, module in _in_layers(model):
        if not isinstance(module, _ConvNd):
            yield from (f"{path}.{name}" for name, p in module.named_parameters(recurse=False) if p.dim() == 3)


def _in_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    from floe_bench.harness.floe.decoder import decoder_layers

    layers = decoder_layers(model)
    place = next(name for name, module in model.named_modules() if module is layers)
    yield from ((f"{place}.{name}", module) for name, module in layers.named_modules())


def _in_layer(path: str) -> str:
    """Return the path within its decoder layer."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[number + 1 :])


def _beside(path: str, fused: list[str]) -> bool:
    """Tell whether the module lies in a block that holds fused experts (block.experts.weight)."""
    blocks = {_in_layer(name).rpartition(".")[0].rpartition(".")[0] for name in fused}
    return any(_in_layer(path).startswith(f"{block}.") for block in blocks)
