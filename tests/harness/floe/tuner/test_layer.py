"""MoeLoraLinear against the formula written out expert by expert, and against PEFT's LoRA."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLinear
from floe_bench.harness.floe.tuner.layer import gates


def make_layer(d_in: int, d_out: int, r: int, M: int, alpha: float = 8.0, dropout: float = 0.0, fresh=False):
    torch.manual_seed(0)
    config = MoeLoraConfig(r=r, lora_alpha=alpha, num_experts=M, lora_dropout=dropout)
    layer = MoeLoraLinear(nn.Linear(d_in, d_out), "default", r, alpha, M, config)
    if not fresh:
        nn.init.normal_(weight(layer, "B"))
        # Gates far from 0 and 1: a saturated softmax has gradients that float32 cannot resolve to 1e-5.
        if M > 1:
            nn.init.normal_(weight(layer, "router"), std=d_in**-0.5)
    return layer


def weight(layer: nn.Module, part: str, adapter: str = "default") -> nn.Parameter:
    return getattr(layer, f"moe_lora_{part}")[adapter].weight


def first_module(model: PeftModel) -> Any:
    """The adapted first module of an `nn.Sequential`."""
    return model.get_submodule("base_model.model.0")


def expert_by_expert(x, W, b, A, B, R, alpha: float):
    """y = W x + b + (α/r) Σ_i w_i B_i A x with w = softmax(R x), one expert after the other."""
    r, M = A.shape[0], R.shape[0]
    logits = x @ R.T
    w = logits.exp() / logits.exp().sum(-1, keepdim=True)
    y = x @ W.T + b
    for i in range(M):
        y = y + alpha / r * w[..., i : i + 1] * (x @ A.T @ B[:, i * r : (i + 1) * r].T)
    return y


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("M", [2, 4, 8])
@pytest.mark.parametrize(("shape", "d_out", "r"), [((2, 5, 6), 9, 3), ((4, 7), 3, 1), ((1, 1, 12), 4, 4)])
def test_forward_and_gradients_equal_a_loop_over_experts(shape, d_out, r, M):
    layer = make_layer(shape[-1], d_out, r, M)
    x = torch.randn(shape, requires_grad=True)
    wrt = [x, weight(layer, "A"), weight(layer, "B"), weight(layer, "router")]
    reference = [tensor.detach().double().requires_grad_() for tensor in wrt]
    W, b = layer.weight.detach().double(), layer.bias.detach().double()
    expected = expert_by_expert(reference[0], W, b, *reference[1:], alpha=8.0)
    actual = layer(x)
    assert relative_error(actual, expected) <= 1e-5
    upstream = torch.randn_like(actual)
    actual_grads = torch.autograd.grad(actual, wrt, upstream)
    expected_grads = torch.autograd.grad(expected, reference, upstream.double())
    for got, want in zip(actual_grads, expected_grads, strict=True):
        assert relative_error(got, want) <= 1e-5


@pytest.mark.parametrize("shape", [(2, 5, 6), (4, 6)])
def test_a_conv1d_is_adapted_as_the_linear_map_that_it_is(shape):
    torch.manual_seed(0)
    conv, config = Conv1D(9, 6), MoeLoraConfig(init_weights=False, lora_dropout=0.0)
    layer = MoeLoraLinear(conv, "default", 3, 8.0, 4, config)  # pyright: ignore[reportArgumentType]
    assert (layer.in_features, layer.out_features) == (6, 9)
    x = torch.randn(shape)
    parts = [weight(layer, part).double() for part in ("A", "B", "router")]
    expected = expert_by_expert(x.double(), conv.weight.T.double(), conv.bias.double(), *parts, alpha=8.0)
    assert relative_error(layer(x), expected) <= 1e-5


def test_a_fresh_adapter_changes_no_bit_whatever_the_inputs_layout():
    """A frozen layer's product with a contiguous copy rounds otherwise, as after Mamba's convolution."""
    layer = make_layer(32, 9, 2, 2, fresh=True)
    layer.base_layer.requires_grad_(False)
    for x in (torch.randn(2, 31, 32), torch.randn(2, 32, 31).transpose(1, 2), torch.randn(32, 31).T):
        assert torch.equal(layer(x), layer.base_layer(x))


def test_a_single_expert_equals_peft_lora():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 9))
    x = torch.randn(2, 5, 6)
    lora = get_peft_model(base, LoraConfig(r=3, lora_alpha=7, target_modules=["0"]))
    reference = first_module(lora)
    nn.init.normal_(reference.lora_B["default"].weight)
    layer = make_layer(6, 9, r=3, M=1, alpha=7)
    layer.base_layer.load_state_dict(reference.base_layer.state_dict())
    weight(layer, "A").data.copy_(reference.lora_A["default"].weight)
    weight(layer, "B").data.copy_(reference.lora_B["default"].weight)
    actual, expected = layer(x), lora(x)
    # The same products summed in another order: some ten roundings of float32, 6e-8 each, on any processor.
    assert relative_error(actual, expected) <= 1e-5
    upstream = torch.randn_like(actual)
    parameters = [weight(layer, "A"), weight(layer, "B")]
    references = [reference.lora_A["default"].weight, reference.lora_B["default"].weight]
    pairs = zip(
        torch.autograd.grad(actual, parameters, upstream),
        torch.autograd.grad(expected, references, upstream),
        strict=True,
    )
    assert all(relative_error(got, want) <= 1e-5 for got, want in pairs)
    assert not layer.moe_lora_router  # a router over one expert could not learn


def test_initial_weights():
    layer = make_layer(400, 30, r=8, M=8, fresh=True)
    assert not weight(layer, "B").any()
    # Kaiming-uniform with a = √5 over fan-in n is uniform on ±1/√n, of standard deviation 1/√(3n).
    for part in ("A", "router"):
        values = weight(layer, part).detach()
        assert values.abs().max() <= 400**-0.5
        assert values.std() == pytest.approx((3 * 400) ** -0.5, rel=0.05)


def test_init_weights_false_starts_the_experts_at_random():
    config = MoeLoraConfig(init_weights=False)
    layer = MoeLoraLinear(nn.Linear(6, 5), "default", 2, 1.0, 3, config)
    assert (weight(layer, "B") != 0).all()


def test_one_dropout_mask_per_module_and_the_router_reads_the_undropped_input():
    layer = make_layer(50, 4, r=2, M=4, dropout=0.5).train()
    seen: dict[str, list[torch.Tensor]] = {"A": [], "router": []}
    for part, inputs in seen.items():
        getattr(layer, f"moe_lora_{part}")["default"].register_forward_pre_hook(
            lambda _, args, inputs=inputs: inputs.append(args[0])
        )
    x = torch.rand(3, 50) + 1
    layer(x)
    assert len(seen["A"]) == len(seen["router"]) == 1
    dropped = seen["A"][0]
    kept = dropped != 0
    assert 0.3 < kept.float().mean() < 0.7
    assert torch.equal(dropped[kept], 2 * x[kept])
    assert torch.equal(seen["router"][0], x)


class LargestIntermediate(TorchDispatchMode):
    """The size of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_intermediate_of_tokens_by_experts_by_outputs():
    tokens, M, d_out = 40, 8, 64
    layer = make_layer(16, d_out, r=2, M=M)
    x = torch.randn(1, tokens, 16, requires_grad=True)
    with LargestIntermediate() as largest:
        layer(x).sum().backward()
    assert largest.numel == tokens * d_out


def test_gates_are_float32_whatever_the_logits():
    logits = torch.randn(3, 4).bfloat16() * 5
    assert gates(logits).dtype == torch.float32
    torch.testing.assert_close(gates(logits), logits.float().softmax(-1))


@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapters_in_float32", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_dtypes(base_dtype, adapters_in_float32, autocast):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8).to(base_dtype).requires_grad_()
    base = nn.Sequential(nn.Linear(8, 6)).to(base_dtype)
    config = MoeLoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["0"])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output_dtype = base(x).dtype
        model = get_peft_model(base, config, autocast_adapter_dtype=adapters_in_float32)
        layer = first_module(model)
        nn.init.normal_(weight(layer, "B"))
        actual = model(x)
    assert actual.dtype == output_dtype
    expected_adapter = torch.float32 if adapters_in_float32 else base_dtype
    parts = [weight(layer, part) for part in ("A", "B", "router")]
    assert {part.dtype for part in parts} == {expected_adapter}
    reference = [tensor.detach().double() for tensor in (x, layer.weight, layer.bias, *parts)]
    expected = expert_by_expert(*reference, alpha=4)
    exact = output_dtype == expected_adapter == torch.float32
    assert relative_error(actual, expected) <= (1e-5 if exact else 2e-2)
    gradients = torch.autograd.grad(actual.float().square().sum(), [x, *parts])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
    assert [gradient.dtype for gradient in gradients] == [base_dtype, *[expected_adapter] * 3]


def test_the_input_is_cast_once_to_the_dtype_of_the_products():
    layer = make_layer(8, 6, r=2, M=4)
    seen = []
    for part in ("A", "router"):
        product = getattr(layer, f"moe_lora_{part}")["default"]
        product.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(3, 8))
    layer(torch.randn(3, 8))
    assert seen == 2 * [torch.bfloat16] + 2 * [torch.float32]
