"""MoE-LoRA as a PEFT tuner: it replaces the target modules by MoE-LoRA layers."""

from __future__ import annotations

import re
import warnings
from typing import Any, TypeVar, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import get_pattern_key
from torch import nn

from floe_bench.harness.floe.decoder import LINEAR, Linear
from floe_bench.harness.floe.feed_forward import FEED_FORWARD

from .config import MoeLoraConfig
from .layer import MoeLoraLayer, MoeLoraLinear

# Quantised layers are often subclasses of nn.Linear. Their weights differ: integers, 8-bit floats, or
# subclasses of nn.Parameter.
WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TARGETS = {family: list(names) for family, names in FEED_FORWARD.items()}
T = TypeVar("T")


class MoeLoraModel(BaseTuner):
    """MoE-LoRA (HydraLoRA, arXiv 2404.19245) on the linear modules of a decoder.

    `peft.get_peft_model(model, MoeLoraConfig(...))` makes it and changes the model in place. Injection raises
    ValueError for a target that is not a plain, unquantised `nn.Linear` or `Conv1D`.
    """

    prefix = "moe_lora_"
    tuner_layer_cls = MoeLoraLayer
    target_module_mapping = _TARGETS

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Inject as PEFT does. Warn of experts_pattern keys that match nothing, as PEFT does for rank_pattern."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, MoeLoraLayer) and adapter_name in module.num_experts
        ]
        patterns = cast(MoeLoraConfig, self.peft_config[adapter_name]).experts_pattern
        unmatched = [
            pattern for pattern in patterns if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)
        ]
        if unmatched:
            warnings.warn(
                f"These experts_pattern keys matched no targeted module and were ignored: {unmatched}.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        config = cast(MoeLoraConfig, peft_config)
        sizes = {
            "r": _value_for(config.rank_pattern, current_key, config.r),
            "lora_alpha": _value_for(config.alpha_pattern, current_key, config.lora_alpha),
            "num_experts": _value_for(config.experts_pattern, current_key, config.num_experts),
        }
        if isinstance(target, MoeLoraLayer):
            target.update_layer(adapter_name, config=config, **sizes)
            return
        new_module = MoeLoraLinear(_as_plain_linear(target, current_key), adapter_name, config=config, **sizes)
        self._replace_module(parent, target_name, new_module, target)


def _value_for(pattern: dict[str, T], module_name: str, default: T) -> T:
    return pattern.get(get_pattern_key(list(pattern), module_name), default)


def _as_plain_linear(target: nn.Module, module_name: str) -> Linear:
    """Return `target` as a plain linear map. Raises ValueError that names its type otherwise."""
    if not isinstance(target, LINEAR):
        raise ValueError(f"MoE-LoRA adapts nn.Linear modules, but {module_name} is a {_type_name(target)}.")
    weight = target.weight
    if type(weight) is not nn.Parameter or weight.dtype not in WEIGHT_DTYPES:
        raise ValueError(
            f"MoE-LoRA does not adapt quantised layers: {module_name} is a {_type_name(target)} with weight "
            f"{_type_name(weight)} of {weight.dtype}, expected a plain nn.Parameter of 16 bits or more."
        )
    return target


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
