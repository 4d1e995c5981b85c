"""Gate statistics against gates computed by hand from the inputs of every module."""

import math

import pytest
import torch

from floe_bench.harness.floe.tuner import MoeLoraLinear, gate_statistics


@pytest.fixture
def model(adapted):
    return adapted(layers_to_transform=[0, 2], experts_pattern={"down_proj": 2})


def by_hand(model, tokens, attention) -> dict[str, tuple[torch.Tensor, float]]:
    """Mean gate and mean entropy of every module over the tokens that attention admits, token by token."""
    inputs: dict[str, torch.Tensor] = {}

    def keep(name: str):
        return lambda module, args: inputs.__setitem__(name, args[0].detach())

    handles = [
        module.register_forward_pre_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, MoeLoraLinear)
    ]
    model(tokens, attention_mask=attention)
    for handle in handles:
        handle.remove()
    expected = {}
    for name, x in inputs.items():
        R = model.get_submodule(name).moe_lora_router["default"].weight.detach().double()
        gates, entropies = [], []
        for n, t in attention.nonzero().tolist():
            odds = [math.exp(logit) for logit in (R @ x[n, t].double()).tolist()]
            gate = [value / sum(odds) for value in odds]
            gates.append(gate)
            entropies.append(-sum(w * math.log(w) for w in gate))
        expected[name] = (torch.tensor(gates, dtype=torch.float64).mean(0), sum(entropies) / len(entropies))
    return expected


def assert_statistics(result, expected, tokens: int) -> None:
    assert result.keys() == expected.keys()
    for name, (mean_gate, entropy) in expected.items():
        assert result[name].tokens == tokens
        assert result[name].entropy == pytest.approx(entropy, rel=1e-5)
        torch.testing.assert_close(result[name].mean_gate, mean_gate, rtol=1e-5, atol=1e-6)


def test_all_tokens_of_a_forward_pass(model, tokens):
    expected = by_hand(model, tokens, torch.ones_like(tokens))
    assert len(expected) == 6
    assert {len(mean_gate) for mean_gate, _ in expected.values()} == {4, 2}
    with gate_statistics(model) as collector:
        model(tokens)
    assert_statistics(collector.result(), expected, tokens=21)


def test_padding_is_left_out_and_passes_add_up(model, tokens):
    attention = torch.ones_like(tokens)
    attention[0, 4:] = attention[2, 2:] = 0
    expected = by_hand(model, tokens, attention)
    with gate_statistics(model) as collector:
        for rows in (slice(0, 1), slice(1, 3)):
            collector.token_mask = attention[rows]
            model(tokens[rows], attention_mask=attention[rows])
    assert_statistics(collector.result(), expected, tokens=int(attention.sum()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_no_token_twice(reentrant, model, tokens):
    expected = by_hand(model, tokens, torch.ones_like(tokens))
    model.train().activation_checkpointing_enable({"use_reentrant": reentrant})
    with gate_statistics(model) as collector:
        model(tokens, labels=tokens).loss.backward()
    assert_statistics(collector.result(), expected, tokens=21)


def test_bounds_of_the_statistics(adapted, tokens):
    model = adapted(num_experts=4)
    for name, parameter in model.named_parameters():
        if "router" in name:
            parameter.data.zero_()
    with gate_statistics(model) as collector:
        model(tokens)
    for statistics in collector.result().values():
        assert statistics.mean_gate.tolist() == pytest.approx([0.25] * 4)
        assert statistics.entropy == pytest.approx(math.log(4))


def test_nothing_is_left_on_the_model_even_after_an_exception(model, tokens):
    with pytest.raises(RuntimeError, match="stop"), gate_statistics(model) as collector:
        raise RuntimeError("stop")
    model(tokens)
    assert collector.result() == {}
    assert not any(module._forward_hooks for module in model.modules())


def test_a_token_mask_of_another_shape_is_refused(model, tokens):
    with gate_statistics(model) as collector:
        collector.token_mask = torch.ones(3, 6)
        with pytest.raises(ValueError, match=r"token_mask must have the shape .* \(3, 7\), got \(3, 6\)"):
            model(tokens)


def test_an_unknown_adapter_is_refused(model):
    with pytest.raises(ValueError, match="no MoE-LoRA adapter named 'other'"):
        gate_statistics(model, "other").__enter__()
