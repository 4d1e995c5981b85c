"""Layer masks: what they do to the output, and that their gradients are exact."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel

from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLayer, MoeLoraLinear, layer_masks


def masked_layers(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, MoeLoraLayer)]


def sample_losses(model: PeftModel, tokens: torch.Tensor) -> torch.Tensor:
    """Mean NLL of every sequence, in nats."""
    logits = model(tokens).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").mean(-1)


def mask_gradients(model: PeftModel, tokens: torch.Tensor) -> torch.Tensor:
    with layer_masks(model, len(tokens)) as (masks, _):
        sample_losses(model, tokens).sum().backward()
    assert masks.grad is not None
    return masks.grad


def test_a_mask_of_zero_gives_the_base_model(adapted, tiny_model, tokens):
    model = adapted()
    for layer in masked_layers(model):
        layer.mask = torch.tensor(0.0)
    assert torch.equal(model(tokens).logits, tiny_model()(tokens).logits)


def one_layer() -> MoeLoraLinear:
    torch.manual_seed(0)
    config = MoeLoraConfig(init_weights=False, lora_dropout=0.0)
    return MoeLoraLinear(torch.nn.Linear(6, 4), "default", 2, 4.0, 3, config)


def test_a_mask_scales_the_update():
    model_input = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    layer = one_layer()
    base = layer.base_layer(model_input)
    update = layer(model_input) - base
    layer.mask = torch.tensor(0.3)
    torch.testing.assert_close(layer(model_input) - base, 0.3 * update)
    layer.mask = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(layer(model_input) - base, torch.tensor([2.0, -1.0])[:, None, None] * update)
    torch.testing.assert_close(layer(model_input[:, 0]) - base[:, 0], layer.mask[:, None] * update[:, 0])


def test_a_mask_follows_its_samples_where_a_model_flattens_them():
    model_input = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    layer = one_layer()
    layer.mask = torch.tensor([2.0, -1.0])
    torch.testing.assert_close(layer(model_input.flatten(0, 1)), layer(model_input).flatten(0, 1))
    with pytest.raises(ValueError, match=r"of shape \(9,\)"):
        layer(model_input.flatten(0, 1)[:9])


def test_a_row_mask_acts_on_its_own_row_only(adapted, tiny_model, tokens):
    model = adapted()
    everywhere, nowhere = model(tokens).logits, tiny_model()(tokens).logits
    for layer in masked_layers(model):
        layer.mask = torch.tensor([0.0, 1.0, 1.0])
    masked = model(tokens).logits
    assert torch.equal(masked[0], nowhere[0])
    assert torch.equal(masked[1:], everywhere[1:])


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1,)])
def test_a_mask_of_another_shape_is_refused(shape, adapted, tokens):
    model = adapted()
    masked_layers(model)[0].mask = torch.ones(shape)
    with pytest.raises(ValueError, match=r"must be a scalar or of shape \(3,\)"):
        model(tokens)


def test_masks_are_neither_parameters_nor_saved(adapted):
    model = adapted()
    names = [name for name, _ in model.named_parameters()]
    keys = list(model.state_dict())
    with layer_masks(model, 2):
        assert [name for name, _ in model.named_parameters()] == names
        assert list(model.state_dict()) == keys


def test_masks_start_at_one_and_are_laid_out_by_layer_and_module_name(adapted, tokens):
    model = adapted(layers_to_transform=[2, 0])
    with layer_masks(model, 3) as (masks, layer_indices):
        assert layer_indices == [0, 2]
        assert masks.shape == (3, 2, 3)
        assert masks.dtype == torch.float32
        assert masks.is_leaf
        assert masks.requires_grad
        assert (masks == 1).all()
        for k, layer in enumerate([0, 2]):
            for j, name in enumerate(["down_proj", "gate_proj", "up_proj"]):
                module = model.get_submodule(f"base_model.model.model.layers.{layer}.mlp.{name}")
                (entry,) = torch.autograd.grad(module.mask[1], masks)
                assert entry.nonzero().tolist() == [[1, k, j]]
        expected = model(tokens).logits
    assert torch.equal(model(tokens).logits, expected)


def test_gradients_equal_the_product_of_experts_and_their_gradients(architecture, adapted, tokens):
    model = adapted(architecture, layers_to_transform=[0, 2])
    g = mask_gradients(model, tokens).sum(-1).sum(0)
    expected = []
    for layer in (0, 2):
        mlp = model.base_model.model.model.layers[layer].mlp
        experts = [module.moe_lora_B["default"].weight for module in masked_layers(mlp)]
        expected.append(sum((B * B.grad).sum() for B in experts))
    # Sums of terms of either sign, in other orders: what rounds is the terms, however small the sum.
    scale = float(torch.stack(expected).detach().abs().max())
    torch.testing.assert_close(g, torch.stack(expected), rtol=1e-4, atol=1e-5 * scale)


def test_batched_gradients_equal_one_sample_at_a_time(adapted, tokens):
    model = adapted()
    g = mask_gradients(model, tokens)
    for n in range(len(tokens)):
        m = torch.ones(3, requires_grad=True)
        for layer, value in enumerate(m):
            for module in masked_layers(model.base_model.model.model.layers[layer]):
                module.mask = value
        (expected,) = torch.autograd.grad(sample_losses(model, tokens[n : n + 1])[0], m)
        torch.testing.assert_close(g[n].sum(-1), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_with_gradient_checkpointing(reentrant, adapted, tokens):
    expected = mask_gradients(adapted(), tokens)
    model = adapted().train()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    torch.testing.assert_close(mask_gradients(model, tokens), expected)


def test_gradients_are_float32_on_a_bfloat16_model(adapted, tokens):
    g = mask_gradients(adapted(dtype=torch.bfloat16, autocast_adapter_dtype=False), tokens)
    assert g.dtype == torch.float32
    reference = mask_gradients(adapted(), tokens)
    assert (g - reference).norm() <= 0.2 * reference.norm()


def test_two_active_adapters_share_the_mask(adapted, tiny_model, tokens):
    model = adapted()
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    with layer_masks(model, 3) as (masks, _):
        assert masks.shape == (3, 3, 3)
        masks.data.zero_()
        assert torch.equal(model(tokens).logits, tiny_model()(tokens).logits)


def test_masks_are_removed_after_an_exception(adapted):
    model = adapted()
    with pytest.raises(RuntimeError, match="stop"), layer_masks(model, 2):
        assert all(layer.mask is not None for layer in masked_layers(model))
        raise RuntimeError("stop")
    assert all(layer.mask is None for layer in masked_layers(model))


def test_a_mask_set_before_is_put_back(adapted):
    model = adapted()
    half = masked_layers(model)[0].mask = torch.tensor(0.5)
    with layer_masks(model, 2):
        pass
    assert masked_layers(model)[0].mask is half


def test_layers_with_different_numbers_of_adapted_modules_are_refused(adapted):
    model = adapted(target_modules=["layers.0.mlp.up_proj", "layers.0.mlp.gate_proj", "layers.1.mlp.up_proj"])
    with pytest.raises(ValueError, match=r"as many adapted modules, got per layer \{0: 2, 1: 1\}"):
        layer_masks(model, 2).__enter__()


def test_a_module_outside_the_layers_is_refused(adapted):
    model = adapted(target_modules=["lm_head"])
    with pytest.raises(ValueError, match="lm_head lies in no numbered layer"):
        layer_masks(model, 2).__enter__()


def test_a_model_without_an_active_adapter_is_refused(adapted, tiny_model):
    with pytest.raises(ValueError, match="no active MoE-LoRA adapter"):
        layer_masks(tiny_model(), 2).__enter__()
    model = adapted()
    with model.disable_adapter(), pytest.raises(ValueError, match="no active MoE-LoRA adapter"):
        layer_masks(model, 2).__enter__()


def test_an_empty_batch_is_refused(adapted):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        layer_masks(adapted(), 0).__enter__()
