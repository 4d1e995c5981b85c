"""MoE-LoRA (HydraLoRA, arXiv 2404.19245) as a PEFT method, registered with PEFT under the key "MOE_LORA".

Importing this package registers it. Then `peft.get_peft_model(model, MoeLoraConfig(...))`, `save_pretrained`
and `PeftModel.from_pretrained` work as with PEFT's own methods.
"""

from __future__ import annotations

from typing import Any, cast

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from .config import PEFT_TYPE, MoeLoraConfig
from .gates import GateCollector, GateStatistics, gate_statistics
from .layer import MoeLoraLayer, MoeLoraLinear
from .mask import layer_masks
from .model import MoeLoraModel

__all__ = [
    "PEFT_TYPE",
    "GateCollector",
    "GateStatistics",
    "MoeLoraConfig",
    "MoeLoraLayer",
    "MoeLoraLinear",
    "MoeLoraModel",
    "gate_statistics",
    "layer_masks",
    "register",
]


def register() -> None:
    """Add MoE-LoRA to PEFT's tables. A second call changes nothing.

    PEFT's own `register_peft_method` refuses names outside its closed `PeftType` enumeration.

    Raises:
        RuntimeError: the key already stands for something else, such as a method of a later PEFT.
    """
    entries = [
        (PEFT_TYPE_TO_CONFIG_MAPPING, MoeLoraConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, MoeLoraModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, MoeLoraModel.prefix),
    ]
    tables = [(cast(dict[str, Any], table), entry) for table, entry in entries]
    for table, entry in tables:
        taken_by = table.get(PEFT_TYPE, entry)
        if _identity(taken_by) != _identity(entry):
            raise RuntimeError(f"PEFT's key {PEFT_TYPE!r} is taken by {taken_by!r}, so it cannot stand for {entry!r}.")
    for table, entry in tables:
        table[PEFT_TYPE] = entry


def _identity(entry: Any) -> Any:
    # Compare names: a fresh import of the module makes new class objects.
    return (entry.__module__, entry.__qualname__) if isinstance(entry, type) else entry


register()
