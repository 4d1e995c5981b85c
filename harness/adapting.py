"""A model put on and taken off again: fresh adapters for training, trained ones for scoring.

Every context leaves the base model bit for bit as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from harness.contracts import AdapterPlan
from harness.floe.loading import load_adapter
from harness.preflight import wrap
from harness.workbench import Workbench

Adapts = Literal["adapter", "everything", "nothing"]


@contextmanager
def fresh(bench: Workbench, plan: AdapterPlan, seed: int) -> Iterator[Any]:
    """What the plan trains, ready to train: an adapter on the base model, or a copy of all its weights.

    A copy is kept in float32 while it trains (train.full_weights_dtype), because bfloat16 loses small updates.
    """
    import torch
    from transformers import set_seed

    set_seed(seed)
    if plan.adapts == "adapter":
        assert plan.peft_config is not None
        try:
            model = wrap(bench.base, plan.peft_config, bench.settings.adapter.dtype == "float32")
        except BaseException:
            bench.forget_base()
            raise
        try:
            yield model
        finally:
            model.unload()
            if bench.settings.train.gradient_checkpointing:
                bench.base.activation_checkpointing_disable()
                bench.base.disable_input_require_grads()
            bench.base.eval()
    else:
        model = copy.deepcopy(bench.base).requires_grad_(True)
        yield model.to(torch.float32) if bench.settings.train.full_weights_dtype == "float32" else model


def save(model: Any, folder: Path, dtype: str) -> int:
    """Save an adapter, or a whole model in the base's dtype, as safetensors; returns the bytes of weights."""
    import torch

    if not hasattr(model, "peft_config"):
        model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@contextmanager
def trained(bench: Workbench, adapts: Adapts, folder: Path | None) -> Iterator[Any]:
    """The model as training left it in `folder`, in evaluation mode. Raises ValueError for missing keys."""
    from transformers import AutoModelForCausalLM

    if adapts == "nothing" or folder is None:
        yield bench.base.eval()
    elif adapts == "everything":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=bench.base.dtype)
        yield model.to(bench.base.device).eval()
    else:
        model = load_adapter(bench.base, folder, autocast_adapter_dtype=bench.settings.adapter.dtype == "float32")
        try:
            yield model.eval()
        finally:
            model.unload()
