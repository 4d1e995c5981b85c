"""LLaMA2-7B's shape on a GPU, random weights: training speed, FLOPs utilisation and peak memory, by method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.floe.labels import at_labels
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model import base as base_model
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings

PROFILE = "llama2-7b"
ROWS, PROMPT, COMPLETION = 4, 384, 128
BFLOAT16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16 FLOP/s in the makers' data sheets."""


def unavailable(bench: Bench) -> str | None:
    """Return that a GPU is needed, where there is none. The benchmark trains on 13.5 GB of weights."""
    return None if bench.device.type == "cuda" else "a GPU"


def run(bench: Bench) -> Iterator[Measurement]:
    yield from measure(bench, profiles.load(PROFILE), ROWS)


def measure(bench: Bench, settings: Settings, rows: int) -> Iterator[Measurement]:
    """Measure one optimiser step of each method, with and without checkpointing, on `rows` random rows."""
    for checkpointing in (False, True):
        sides, tokens, flops = _sides(bench, settings, rows, checkpointing), rows * (PROMPT + COMPLETION), {}
        for name, side in sides.items():
            with FlopCounterMode(display=False) as counter:
                side()
            flops[name] = counter.get_total_flops()
        seconds = bench.alternate(sides)
        middle = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
        case = f"{rows} rows of {PROMPT} + {COMPLETION} tokens, checkpointing {'on' if checkpointing else 'off'}"
        yield Measurement(
            what=f"step, {case}",
            values=seconds,
            ratio=("floe", "hydralora"),
            notes={
                "tokens_per_second": {name: tokens / value for name, value in middle.items()},
                "flops": flops,
                "utilisation": {name: _utilisation(flops[name] / value) for name, value in middle.items()},
            },
        )
        yield Measurement(
            what=f"peak memory over the weights, {case}",
            values=bench.peak(sides, repeats=2),
            unit="bytes",
            ratio=("floe", "hydralora"),
        )


def _sides(bench: Bench, settings: Settings, rows: int, checkpointing: bool) -> dict[str, Callable[[], None]]:
    """Return a step of each method on one base model. Each step puts its adapter on and takes it off."""
    with bench.device:
        base = AutoModelForCausalLM.from_config(base_model.architecture(settings.model), dtype=torch.bfloat16)
    vocabulary = base.config.vocab_size
    ids = torch.randint(vocabulary, (rows, PROMPT + COMPLETION), device=bench.device)
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    n_layers = base.config.num_hidden_layers
    quarter = list(range(n_layers - -(-n_layers // 4), n_layers))
    return {
        "hydralora": _step(base, _moe_lora(settings, None), batch, checkpointing),
        "lora": _step(base, _lora(settings), batch, checkpointing),
        "floe": _step(base, _moe_lora(settings, quarter), batch, checkpointing),
    }


def _moe_lora(settings: Settings, layers: list[int] | None) -> MoeLoraConfig:
    adapter = settings.adapter
    return MoeLoraConfig(
        r=adapter.r,
        num_experts=adapter.num_experts,
        lora_dropout=adapter.lora_dropout,
        target_modules=list(adapter.target_modules),
        layers_to_transform=layers,
        task_type="CAUSAL_LM",
    )


def _lora(settings: Settings) -> LoraConfig:
    adapter = settings.adapter
    return LoraConfig(
        r=adapter.r * adapter.num_experts,
        lora_dropout=adapter.lora_dropout,
        target_modules=list(adapter.target_modules),
        task_type="CAUSAL_LM",
    )


def _step(base: Any, config: PeftConfig, batch: dict[str, torch.Tensor], checkpointing: bool) -> Callable[[], None]:
    def step() -> None:
        model = get_peft_model(base, config)
        model.train()
        if checkpointing:
            base.activation_checkpointing_enable()
            base.disable_input_require_grads()
        try:
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
            with torch.autocast(base.device.type, torch.bfloat16):
                loss = model(**batch, **at_labels(batch), use_cache=False).loss
            loss.backward()
            optimizer.step()
        finally:
            if checkpointing:
                base.activation_checkpointing_disable()
            model.unload()

    return step


def _utilisation(flops_per_second: float) -> float | None:
    """Return the share of the GPU's dense bfloat16 peak, where its name is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((peak for key, peak in BFLOAT16_PEAK.items() if key in name), None)
    return flops_per_second / peak if peak else None
