"""MoE-LoRA on whole models: what is adapted, what trains, and what the adapted model computes."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn

from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLayer

HIDDEN, FEED_FORWARD, LAYERS = 16, 24, 3
SHAPES = {
    "gate_proj": (HIDDEN, FEED_FORWARD),
    "up_proj": (HIDDEN, FEED_FORWARD),
    "down_proj": (FEED_FORWARD, HIDDEN),
    "q_proj": (HIDDEN, HIDDEN),
}


def size(module: str, r: int, M: int) -> int:
    """Parameters of A, the M experts and the router on one module."""
    d_in, d_out = SHAPES[module]
    return r * d_in + M * d_out * r + M * d_in


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted_modules(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, MoeLoraLayer)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_leaves_the_logits_bit_for_bit(architecture, dtype, tiny_model, tokens):
    base = tiny_model(architecture, dtype)
    before = base(tokens).logits
    model = get_peft_model(base, MoeLoraConfig())
    assert len(adapted_modules(model)) == 3 * LAYERS
    assert torch.equal(model(tokens).logits, before)
    assert torch.equal(model.train()(tokens).logits, before)


def test_exactly_a_b_and_router_of_the_adapted_layers_train(architecture, tiny_model):
    model = get_peft_model(tiny_model(architecture), MoeLoraConfig(layers_to_transform=[0, 2]))
    assert set(trainable(model)) == {
        f"base_model.model.model.layers.{layer}.mlp.{module}.moe_lora_{part}.default.weight"
        for layer in (0, 2)
        for module in ("gate_proj", "up_proj", "down_proj")
        for part in ("A", "B", "router")
    }


def test_print_trainable_parameters(adapted, capsys):
    adapted(r=2, num_experts=3).print_trainable_parameters()
    expected = LAYERS * sum(size(module, 2, 3) for module in ("gate_proj", "up_proj", "down_proj"))
    assert f"trainable params: {expected:,} ||" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, LAYERS * (2 * size("up_proj", 4, 4) + size("down_proj", 4, 4))),
        ({"target_modules": ["q_proj"], "r": 3, "num_experts": 5}, LAYERS * size("q_proj", 3, 5)),
        ({"target_modules": r".*layers\.1\..*up_proj"}, size("up_proj", 4, 4)),
        ({"target_modules": ["up_proj"], "layers_to_transform": 1}, size("up_proj", 4, 4)),
        (
            {"target_modules": ["up_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
            2 * size("up_proj", 4, 4),
        ),
        (
            {"target_modules": ["up_proj", "q_proj"], "exclude_modules": ["q_proj"]},
            LAYERS * size("up_proj", 4, 4),
        ),
        (
            {"target_modules": ["up_proj", "down_proj"], "rank_pattern": {"up_proj": 7}},
            LAYERS * (size("up_proj", 7, 4) + size("down_proj", 4, 4)),
        ),
        (
            {"target_modules": ["up_proj"], "experts_pattern": {r"layers\.1\.mlp\.up_proj": 2}},
            2 * size("up_proj", 4, 4) + size("up_proj", 4, 2),
        ),
    ],
)
def test_parameter_count_by_closed_formula(settings, expected, tiny_model):
    model = get_peft_model(tiny_model(), MoeLoraConfig(**settings))
    assert sum(parameter.numel() for parameter in trainable(model).values()) == expected


def test_a_pattern_sets_alpha_over_r_of_its_modules(tiny_model):
    config = MoeLoraConfig(r=4, lora_alpha=8, rank_pattern={"up_proj": 2}, alpha_pattern={"gate_proj": 12})
    model = get_peft_model(tiny_model(), config)
    scalings = [
        (name.rpartition(".")[2], module.scaling["default"])
        for name, module in model.named_modules()
        if isinstance(module, MoeLoraLayer)
    ]
    assert scalings == LAYERS * [("gate_proj", 3.0), ("up_proj", 4.0), ("down_proj", 2.0)]


def test_an_experts_pattern_that_matches_nothing_is_warned_of(tiny_model):
    with pytest.warns(RuntimeWarning, match=r"experts_pattern keys matched no targeted module.*'o_proj'"):
        get_peft_model(tiny_model(), MoeLoraConfig(experts_pattern={"up_proj": 2, "o_proj": 3}))


@pytest.mark.parametrize("module", [nn.Embedding(4, 4), nn.Conv1d(4, 4, 1)])
def test_a_target_that_is_not_linear_is_refused_by_its_type(module):
    with pytest.raises(ValueError, match=rf"1 is a .*\.{type(module).__name__}"):
        get_peft_model(nn.Sequential(nn.Identity(), module), MoeLoraConfig(target_modules=["1"]))


class QuantisedWeight(nn.Parameter):
    """Stands for the weights of bitsandbytes, which keep a floating dtype until they are moved."""


@pytest.mark.parametrize(
    "weight",
    [
        nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False),
        nn.Parameter(torch.zeros(4, 4, dtype=torch.float8_e4m3fn), requires_grad=False),
        QuantisedWeight(torch.zeros(4, 4)),
    ],
)
def test_a_quantised_linear_is_refused(weight):
    linear = nn.Linear(4, 4)
    linear.weight = weight
    with pytest.raises(ValueError, match=r"does not adapt quantised layers: 0 is a .*Linear with weight"):
        get_peft_model(nn.Sequential(linear), MoeLoraConfig(target_modules=["0"]))


def test_an_unknown_model_type_needs_target_modules(tiny_model, monkeypatch):
    base = tiny_model()
    monkeypatch.setattr(type(base.config), "model_type", "unheard_of")
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(base, MoeLoraConfig())


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_gives_the_same_logits_alone_and_in_any_batch(architecture, side, adapted):
    model = adapted(architecture)
    rows = [torch.randint(3, 32, (length,), generator=torch.Generator().manual_seed(length)) for length in (7, 3, 5)]
    batch = torch.zeros(3, 7, dtype=torch.long)
    attention = torch.zeros(3, 7, dtype=torch.long)
    places = [slice(7 - len(row), 7) if side == "left" else slice(0, len(row)) for row in rows]
    for n, (row, place) in enumerate(zip(rows, places, strict=True)):
        batch[n, place], attention[n, place] = row, 1
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    together = model(batch, attention_mask=attention, position_ids=positions).logits.detach()
    for n, (row, place) in enumerate(zip(rows, places, strict=True)):
        alone = model(row[None]).logits[0].detach()
        torch.testing.assert_close(together[n, place], alone, rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, adapted, tokens):
    plain, checkpointed = adapted().train(), adapted().train()
    checkpointed.activation_checkpointing_enable({"use_reentrant": reentrant})
    for model in (plain, checkpointed):
        model(tokens, labels=tokens).loss.backward()
    expected = {name: parameter.grad for name, parameter in trainable(plain).items()}
    for name, parameter in trainable(checkpointed).items():
        gradient = expected[name]
        assert gradient is not None
        assert gradient.any()
        # float32 rounding, amplified over three layers: a backward in parts may add gradients in another order.
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def test_merging_is_refused_and_changes_nothing(adapted, tokens):
    model = adapted()
    before = model(tokens).logits
    for merge in (model.merge_adapter, model.merge_and_unload, model.unmerge_adapter):
        with pytest.raises(ValueError, match="MoE-LoRA cannot be merged: its router"):
            merge()
    layer = next(module for module in model.modules() if isinstance(module, MoeLoraLayer))
    for merge in (layer.merge, layer.unmerge):
        with pytest.raises(ValueError, match="MoE-LoRA cannot be merged: its router"):
            merge()
    assert torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unload_gives_back_the_base_model_bit_for_bit(dtype, tiny_model, adapted, tokens):
    base, model = tiny_model(dtype=dtype), adapted(dtype=dtype)
    structure = repr(base)
    weights = copy.deepcopy(base.state_dict())
    assert not torch.equal(model(tokens).logits, base(tokens).logits)
    restored = model.unload()
    assert repr(restored) == structure
    assert restored.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in restored.state_dict().items())
    assert torch.equal(restored(tokens).logits, base(tokens).logits)
