"""Put adapters on the base model and take them off: fresh ones for training, trained ones for scoring.

Every context leaves the base model bit for bit as it was.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.files import share, writing
from floe_bench.harness.model.base import BaseModel
from floe_bench.harness.spec.settings import Settings

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

Adapts = Literal["adapter", "everything", "nothing"]


@contextmanager
def fresh(base: BaseModel, plan: AdapterPlan, seed: int, settings: Settings) -> Iterator[Any]:
    """Yield the model that the plan trains: an adapter on the base model, or a copy of all its weights.

    A copy trains in float32 (train.full_weights_dtype), because bfloat16 loses small updates.
    """
    import torch
    from transformers import set_seed

    set_seed(seed)
    if plan.adapts == "adapter":
        assert plan.peft_config is not None
        try:
            model = wrap(base.model, plan.peft_config, settings.adapter.dtype == "float32")
        except BaseException:
            base.forget()
            raise
        try:
            yield model
        finally:
            model.unload()
            if settings.train.gradient_checkpointing:
                base.model.activation_checkpointing_disable()
                base.model.disable_input_require_grads()
            base.model.eval()
    else:
        model = copy.deepcopy(base.model).requires_grad_(True)
        yield model.to(torch.float32) if settings.train.full_weights_dtype == "float32" else model


def save(model: Any, folder: Path, dtype: str) -> int:
    """Save an adapter, or a whole model in the base's dtype, as safetensors. Return the bytes of weights.

    Raises StorageError where the disk refuses.
    """
    import torch

    if not hasattr(model, "peft_config"):
        model.to(getattr(torch, dtype))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        share(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@contextmanager
def trained(base: BaseModel, adapts: Adapts, folder: Path | None, settings: Settings) -> Iterator[Any]:
    """Yield the model as training left it in `folder`, in evaluation mode.

    Raises:
        ValueError: the saved adapter lacks keys, or has others.
    """
    from transformers import AutoModelForCausalLM

    if adapts == "nothing" or folder is None:
        yield base.model.eval()
    elif adapts == "everything":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=base.model.dtype)
        yield model.to(base.model.device).eval()
    else:
        model = load_adapter(base.model, folder, autocast_adapter_dtype=settings.adapter.dtype == "float32")
        try:
            yield model.eval()
        finally:
            model.unload()


def wrap(model: Any, config: Any, float32: bool) -> Any:
    """Return the model with a fresh adapter, in float32 if `float32`, else in the base's dtype.

    PEFT writes into the config, so it gets a copy.
    """
    from peft import get_peft_model

    with warnings.catch_warnings():
        # PEFT finds out by itself that a Conv1D holds its weight the other way round.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        return get_peft_model(model, copy.deepcopy(config), autocast_adapter_dtype=float32)  # pyright: ignore


def load_adapter(
    model: nn.Module,
    folder: str | PathLike[str],
    *,
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """Load as `PeftModel.from_pretrained`, but strictly: the file and the adapter must hold the same weights.

    Args:
        model: the base model, changed in place. It is unloaded again when the keys do not agree.
        folder: what `save_pretrained` wrote, with safetensors.
        is_trainable: as in PEFT. False freezes the adapter and puts the model in eval mode.
        autocast_adapter_dtype: as in PEFT. True holds half-precision adapters in float32.

    Raises:
        ValueError: there is no safetensors file, or it lacks keys of the adapter, or has others.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors import safe_open

    import floe_bench.harness.floe.tuner  # noqa: F401  (registers MoE-LoRA with PEFT)

    path = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        raise ValueError(f"{folder} must hold {SAFETENSORS_WEIGHTS_NAME}, as written by save_pretrained.")
    with safe_open(path, framework="pt") as file:
        saved = set(file.keys())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        loaded = PeftModel.from_pretrained(
            model, str(folder), is_trainable=is_trainable, autocast_adapter_dtype=autocast_adapter_dtype
        )
    expected = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    if saved != expected:
        cast(BaseTuner, loaded.base_model).unload()
        raise ValueError(
            f"The weights in {folder} do not fit their configuration: "
            f"missing keys {sorted(expected - saved)}, unexpected keys {sorted(saved - expected)}."
        )
    return loaded
