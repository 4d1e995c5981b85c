"""The MoE-LoRA module against PEFT's LoRA of total rank M·r, and against a loop over its experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._loop import LoopedMoeLora
from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLinear

SMALL = ((576, 1536), (1536, 576))
SHAPES = (*SMALL, (4096, 11008))
EXPERTS = {4: 2.0, 8: 3.0}
"""M -> how many times faster than the loop, in the small dimensions."""
R = 4
TOKENS = 1024
DROPOUT = 0.05


def run(bench: Bench) -> Iterator[Measurement]:
    dtypes = (torch.bfloat16, torch.float32) if bench.device.type == "cpu" else (torch.bfloat16,)
    for dtype in dtypes:
        for d_in, d_out in SHAPES:
            for num_experts, speed_up in EXPERTS.items():
                yield from _measure(bench, dtype, d_in, d_out, num_experts, speed_up)


def _measure(
    bench: Bench, dtype: torch.dtype, d_in: int, d_out: int, num_experts: int, speed_up: float
) -> Iterator[Measurement]:
    case = f"{d_in}→{d_out}, M = {num_experts}, {str(dtype).removeprefix('torch.')}"
    flow = _flow(bench, dtype, d_in, d_out, TOKENS)
    moe_lora = _adapted(
        bench,
        dtype,
        d_in,
        d_out,
        MoeLoraConfig(r=R, num_experts=num_experts, lora_dropout=DROPOUT, target_modules=["0"]),
    )
    lora = _adapted(
        bench, dtype, d_in, d_out, LoraConfig(r=num_experts * R, lora_dropout=DROPOUT, target_modules=["0"])
    )
    assert isinstance(moe_lora, MoeLoraLinear)
    sides = {
        "MoE-LoRA": moe_lora,
        "LoRA": lora,
        "loop": LoopedMoeLora(moe_lora).train(),
        "W alone": cast(nn.Module, moe_lora.base_layer),
    }
    steps = {name: _forward_backward(side, *flow) for name, side in sides.items()}
    seconds = bench.alternate(steps)
    yield Measurement(what=f"time, {case}: against LoRA", values=seconds, ratio=("MoE-LoRA", "LoRA"), at_most=1.10)
    yield Measurement(
        what=f"time, {case}: loop against it",
        values=seconds,
        ratio=("loop", "MoE-LoRA"),
        at_least=speed_up if (d_in, d_out) in SMALL else None,
    )
    # More tokens where tensors are small, so that the allocator's own few megabytes do not decide.
    larger = _flow(bench, dtype, d_in, d_out, 4 * TOKENS if (d_in, d_out) in SMALL else TOKENS)
    peak = bench.peak({side: _forward_backward(sides[side], *larger) for side in ("MoE-LoRA", "LoRA")})
    yield Measurement(what=f"peak memory, {case}", values=peak, unit="bytes", ratio=("MoE-LoRA", "LoRA"), at_most=1.05)


def _flow(bench: Bench, dtype: torch.dtype, d_in: int, d_out: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an input that wants a gradient, and the gradient that comes down to the output."""
    x = torch.randn(8, tokens // 8, d_in, dtype=dtype, device=bench.device, requires_grad=True)
    return x, torch.randn(8, tokens // 8, d_out, dtype=dtype, device=bench.device)


def _adapted(bench: Bench, dtype: torch.dtype, d_in: int, d_out: int, config: MoeLoraConfig | LoraConfig) -> nn.Module:
    """Return the adapted linear layer in training mode. Adapters are float32, as the profiles train them."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(d_in, d_out, bias=False, dtype=dtype, device=bench.device))
    get_peft_model(base, config)  # pyright: ignore[reportArgumentType]
    return base.get_submodule("0").train()


def _forward_backward(module: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> Callable[[], None]:
    """Return one forward and backward under the training's autocast. Gradients are dropped."""

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = module(x)
        y.backward(upstream)
        x.grad = None
        for parameter in module.parameters():
            parameter.grad = None

    return step
