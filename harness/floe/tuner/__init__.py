"""MoE-LoRA (HydraLoRA, arXiv 2404.19245) as a PEFT method, registered with PEFT under the key "MOE_LORA".

After `import floe_bench.harness.floe.tuner`, `peft.get_peft_model(model, MoeLoraConfig(...))`, `save_pretrained` and
`PeftModel.from_pretrained` work as with any method of PEFT's own.
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
    """Enter MoE-LoRA into PEFT's tables; a second call changes nothing.

    PEFT's own `register_peft_method` refuses names outside its closed `PeftType` enumeration.

    Raises:
        RuntimeError: the key already stands for something else, e.g. a method of a later PEFT.
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
    # By name, because importing the module afresh makes new class objects.
    return (entry.__module__, entry.__qualname__) if isinstance(entry, type) else entry


register()
