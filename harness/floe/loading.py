"""Adapters back from disk, strictly: PEFT only warns of keys that are missing."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import cast

from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn

import harness.floe.tuner  # noqa: F401  (registers MoE-LoRA, so that its adapters are known)


def load_adapter(
    model: nn.Module,
    folder: str | PathLike[str],
    *,
    is_trainable: bool = False,
    autocast_adapter_dtype: bool = True,
) -> PeftModel:
    """`PeftModel.from_pretrained`, strict: every adapter weight comes from the file and every weight is used.

    Args:
        model: the base model, changed in place; unloaded again when the keys do not agree.
        folder: what `save_pretrained` wrote, with safetensors.
        is_trainable: as in PEFT; False freezes the adapter and puts the model in eval mode.
        autocast_adapter_dtype: as in PEFT; True holds half-precision adapters in float32.

    Raises:
        ValueError: there is no safetensors file, or it lacks keys of the adapter, or has others.
    """
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
