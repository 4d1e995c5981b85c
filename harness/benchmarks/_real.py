"""Load the small real model and its rows, as the profiles use them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from peft import get_peft_model

from floe_bench.harness.benchmarks import Bench
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

PROFILE = "smollm2-135m"
FLOE_LAYERS = (8, 9, 11, 12, 13, 14, 15, 29)
"""What FLoE picked of the 30 on Dolly (results/reference/smollm2-135m, main, seed 0)."""


def smollm2_session(bench: Bench, **settings: Any) -> Session:
    """Return SmolLM2-135M with rows of `bench.data_dir`, or else the embedded ones.

    settings: by dotted name, with __ for the dot.
    """
    source = {"data.source": "folder", "data.path": str(bench.data_dir)} if bench.data_dir else {}
    values = {"data.source": "embedded"} | source | {key.replace("__", "."): value for key, value in settings.items()}
    return Session(profiles.load(PROFILE, values), Store(bench.folder, PROFILE), bench.progress)


def adapted(shared: Session, layers: Sequence[int] | None = None) -> Any:
    """Return a copy of the base model with the profile's fresh MoE-LoRA on `layers` (None: on all)."""
    adapter = shared.settings.adapter
    config = MoeLoraConfig(
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        num_experts=adapter.num_experts,
        lora_dropout=adapter.lora_dropout,
        target_modules=list(adapter.target_modules),
        layers_to_transform=None if layers is None else list(layers),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(copy.deepcopy(shared.base), config)  # pyright: ignore[reportArgumentType]
