"""Find the parameters that a plan trains, from the shape of the model alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftConfig

from floe_bench.harness.model.adapters import wrap
from floe_bench.harness.model.targets import check_targets


def trainable_names(meta_model: Any, plan: AdapterPlan) -> dict[str, int]:
    """Return parameter name -> size for everything that the plan trains.

    Args:
        meta_model: the base model on the meta device; it is restored.
        plan: what to train.

    Raises:
        UsageError: a target or layer matches no module, or r exceeds a target's smaller dimension.
    """
    if plan.adapts == "nothing":
        return {}
    if plan.adapts == "everything":
        return {name: p.numel() for name, p in meta_model.named_parameters()}
    assert plan.peft_config is not None
    check_targets(meta_model, plan.peft_config)
    try:
        model = wrap(meta_model, plan.peft_config, float32=True)
    except ValueError as error:
        raise UsageError(f"the adapter does not fit the model: {error}") from error
    try:
        _check_matches(model, plan.peft_config)
        return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    finally:
        model.unload()


def _check_matches(model: Any, config: PeftConfig) -> None:
    """Raise UsageError for layers, targets and patterns that match nothing. PEFT ignores them silently."""
    names = list(model.base_model.targeted_module_names)
    layers = getattr(config, "layers_to_transform", None)
    layers = [layers] if isinstance(layers, int) else layers or []
    targets = config.target_modules  # pyright: ignore[reportAttributeAccessIssue]
    for layer in layers:
        for target in targets if isinstance(targets, (set, list, tuple)) else []:
            if not any(re.search(rf"\.{layer}\.(.*\.)?{re.escape(target)}$", name) for name in names):
                raise UsageError(f"layer {layer} has no module '{target}' to adapt")
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field, None) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                raise UsageError(f"{field} '{pattern}' matches no adapted module")
    for name, module in model.base_model.model.named_modules():
        for rank in getattr(module, "r", {}).values() if isinstance(getattr(module, "r", None), dict) else []:
            limit = min(module.get_base_layer().weight.shape)
            if rank > limit:
                raise UsageError(f"r = {rank} is above {limit}, the smaller dimension of {name}")
