"""Fisher scores: G against autograd one sample at a time, the matrices against their definitions."""

import numpy as np
import pytest
import torch
from peft import get_peft_model

from floe_bench.harness.floe.fisher import summed_over_modules
from floe_bench.harness.floe.importance import fisher_gradients
from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLinear

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FISHER_ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma2"])


@pytest.fixture
def samples():
    """Five (token ids, prompt length), of different lengths; the completion is what follows the prompt."""
    generator = torch.Generator().manual_seed(2)
    lengths = [(7, 3), (5, 1), (9, 6), (4, 2), (12, 5)]
    return [(torch.randint(3, 32, (T,), generator=generator).tolist(), prompt) for T, prompt in lengths]


def batched(samples, sizes):
    """Batches of the given sizes, padded on the right with token 0, labels on the completions only."""

    def padded(rows, value):
        rows = [torch.tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    batches, left = [], list(samples)
    for size in sizes:
        rows, left = left[:size], left[size:]
        batches.append(
            {
                "input_ids": padded([ids for ids, _ in rows], 0),
                "attention_mask": padded([[1] * len(ids) for ids, _ in rows], 0),
                "labels": padded([[-100] * prompt + ids[prompt:] for ids, prompt in rows], -100),
            }
        )
    return batches


def pilot(model, **settings):
    """MoE-LoRA on every layer with B far from 0, in training mode as a trainer leaves it."""
    torch.manual_seed(1)
    return get_peft_model(model, MoeLoraConfig(r=2, num_experts=3, init_weights=False, **settings)).train()


def sample_nll(model, ids, prompt):
    """Mean NLL of the tokens after the prompt, the sample alone and unpadded."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    nll = [-torch.log_softmax(logits[t - 1], dim=0)[ids[t]] for t in range(prompt, len(ids))]
    return torch.stack(nll).mean()


def scalar_mask_gradient(model, ids, prompt):
    """∂ℓ/∂m (L, J) with one scalar mask per module, written as base output + m · (adapted − base output)."""
    modules = sorted((name, module) for name, module in model.named_modules() if isinstance(module, MoeLoraLinear))
    masks = [torch.ones((), requires_grad=True) for _ in modules]

    def masked(mask):
        def hook(module, args, output):
            base = module.base_layer(*args)
            return base + mask * (output - base)

        return hook

    hooks = [module.register_forward_hook(masked(m)) for (_, module), m in zip(modules, masks, strict=True)]
    gradient = torch.autograd.grad(sample_nll(model, ids, prompt), masks)
    for hook in hooks:
        hook.remove()
    return torch.stack(gradient).reshape(3, 3).numpy()


def expert_inner_product(model, ids, prompt):
    """Σ_{modules of layer k} ⟨∂ℓ/∂B, B⟩ (L,), which is ∂ℓ/∂m_k because the update is linear in B."""
    experts = [[p for n, p in model.named_parameters() if f"layers.{k}." in n and "moe_lora_B" in n] for k in range(3)]
    gradients = torch.autograd.grad(sample_nll(model, ids, prompt), [B for layer in experts for B in layer])
    products = [
        (dB * B.detach()).sum() for dB, B in zip(gradients, [B for layer in experts for B in layer], strict=True)
    ]
    return torch.stack(products).reshape(3, 3).sum(1).numpy()


@FISHER_ARCHITECTURES
def test_gradients_are_those_of_each_sample_alone(tiny_model, samples, architecture):
    model = pilot(tiny_model(architecture))
    scores = fisher_gradients(model, batched(samples, [2, 3]))
    model.eval()
    expected = np.stack([scalar_mask_gradient(model, *sample) for sample in samples])
    assert scores["G_modules"].dtype == np.float32
    np.testing.assert_allclose(scores["G_modules"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    by_experts = np.stack([expert_inner_product(model, *sample) for sample in samples])
    np.testing.assert_allclose(
        summed_over_modules(scores["G_modules"]), by_experts, rtol=1e-4, atol=1e-4 * np.abs(by_experts).max()
    )
    nll = [sample_nll(model, *sample).item() for sample in samples]
    np.testing.assert_allclose(scores["nll"], nll, rtol=1e-5)
    assert scores["tokens"].tolist() == [len(ids) - prompt for ids, prompt in samples]
    assert scores["layers"].tolist() == [0, 1, 2]


@FISHER_ARCHITECTURES
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [4, 1], [2, 3]])
def test_gradients_do_not_depend_on_the_batching(tiny_model, samples, architecture, sizes):
    model = pilot(tiny_model(architecture))
    together = fisher_gradients(model, batched(samples, [5]))
    apart = fisher_gradients(model, batched(samples, sizes))
    for name in ("G_modules", "nll"):
        # Products of other shapes sum in another order: float32's 6e-8, amplified over three layers forth and back.
        scale = np.abs(together[name]).max()
        np.testing.assert_allclose(apart[name], together[name], rtol=1e-4, atol=1e-4 * scale)
    assert apart["tokens"].tolist() == together["tokens"].tolist()


def test_the_order_of_samples_is_kept(tiny_model, samples):
    model = pilot(tiny_model())
    forwards = fisher_gradients(model, batched(samples, [5]))
    backwards = fisher_gradients(model, batched(samples[::-1], [2, 3]))
    np.testing.assert_allclose(backwards["G_modules"][::-1], forwards["G_modules"], rtol=1e-3, atol=1e-5)


def test_a_fresh_adapter_has_no_gradient(tiny_model, samples):
    """B = 0: the update and so its mask gradient vanish, exactly."""
    model = get_peft_model(tiny_model(), MoeLoraConfig())
    assert not fisher_gradients(model, batched(samples, [5]))["G_modules"].any()


def test_layers_name_the_adapted_ones(tiny_model, samples):
    model = pilot(tiny_model(), layers_to_transform=[0, 2])
    scores = fisher_gradients(model, batched(samples, [5]))
    assert scores["G_modules"].shape == (5, 2, 3)
    assert scores["layers"].tolist() == [0, 2]


@FISHER_ARCHITECTURES
def test_a_bf16_model_has_finite_gradients_close_to_float32(tiny_model, samples, architecture):
    # Smaller weights than the fixture's: there bf16's rounding is amplified from layer to layer.
    half = pilot(tiny_model(architecture, dtype=torch.bfloat16, initializer_range=0.1))
    G = fisher_gradients(half, batched(samples, [2, 3]))["G_modules"]
    exact = fisher_gradients(half.float(), batched(samples, [2, 3]))["G_modules"]
    assert G.dtype == np.float32 and np.isfinite(G).all()
    assert np.linalg.norm(G - exact) < 0.1 * np.linalg.norm(exact)


def test_a_sample_without_completion_is_refused(tiny_model, samples):
    batches = batched([(ids, len(ids) if n in (1, 4) else prompt) for n, (ids, prompt) in enumerate(samples)], [2, 3])
    with pytest.raises(ValueError, match=r"Samples \[1, 4\] have no completion token"):
        fisher_gradients(pilot(tiny_model()), batches)


def test_no_batches_are_refused(tiny_model):
    with pytest.raises(ValueError, match="no batches"):
        fisher_gradients(pilot(tiny_model()), [])


def test_a_model_without_an_active_adapter_is_refused(tiny_model, samples):
    model = pilot(tiny_model())
    with model.disable_adapter(), pytest.raises(ValueError, match="no active MoE-LoRA adapter"):
        fisher_gradients(model, batched(samples, [5]))
