"""Scores of the base weights (Taylor, gradient norm, magnitude), and that no scorer changes the model."""

import gc

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from harness.floe.decoder import decoder_layers
from harness.floe.importance import fisher_gradients, gradient_norm, taylor, weight_magnitude
from harness.floe.tuner import MoeLoraConfig

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

L = 3
ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen2"])
SCORERS = [taylor, gradient_norm, weight_magnitude, fisher_gradients]


@pytest.fixture
def texts():
    """Token ids of five texts of different lengths: every token but the first is predicted."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 32, (T,), generator=generator).tolist() for T in (7, 5, 9, 4, 12)]


def batched(texts, *sizes):
    """Batches of the given sizes, padded on the right to the longest of all texts."""
    T = max(map(len, texts))

    def padded(rows, value):
        return torch.tensor([row + [value] * (T - len(row)) for row in rows])

    batches = []
    for size in sizes:
        rows, texts = texts[:size], texts[size:]
        batches.append(
            {
                "input_ids": padded(rows, 0),
                "attention_mask": padded([[1] * len(row) for row in rows], 0),
                "labels": padded(rows, -100),
            }
        )
    return batches


def token_nll(model, ids):
    """NLL of every token but the first, the text alone and unpadded."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    return torch.stack([-torch.log_softmax(logits[t - 1], dim=0)[ids[t]] for t in range(1, len(ids))])


def layer_gradients_of(model, loss):
    """Plain .grad of `loss` for the weights of every layer, as [(θ, ∂loss/∂θ), …] by layer, in float64."""
    model.requires_grad_(True)
    loss.backward()
    pairs = [
        [(p.detach().double(), p.grad.double()) for n, p in model.named_parameters() if f"layers.{k}." in n]
        for k in range(L)
    ]
    model.zero_grad()
    return pairs


@pytest.fixture
def expected_T(tiny_model, texts):
    def compute(architecture="llama"):
        model = tiny_model(architecture)
        loss = torch.cat([token_nll(model, ids) for ids in texts]).mean()
        return [sum((d * w).abs().sum().item() for w, d in layer) for layer in layer_gradients_of(model, loss)]

    return compute


def adapted(model):
    torch.manual_seed(1)
    return get_peft_model(model, MoeLoraConfig(r=2, num_experts=3, init_weights=False)).train()


@ARCHITECTURES
@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1)])
def test_taylor_is_that_of_the_whole_set(tiny_model, texts, expected_T, architecture, sizes):
    scores = taylor(tiny_model(architecture), batched(texts, *sizes))
    assert scores["T"].dtype == np.float64
    np.testing.assert_allclose(scores["T"], expected_T(architecture), rtol=1e-5)


@pytest.mark.parametrize("sizes", [(5,), (2, 3)])
@pytest.mark.parametrize("layers_at_once", [1, 2, 3, 10])
def test_taylor_does_not_depend_on_the_layers_at_once(tiny_model, texts, sizes, layers_at_once):
    batches = batched(texts, *sizes)
    one_pass = taylor(tiny_model(), batches)["T"]
    np.testing.assert_array_equal(taylor(tiny_model(), batches, layers_at_once=layers_at_once)["T"], one_pass)


@pytest.mark.parametrize("wrap", [adapted, lambda model: get_peft_model(model, LoraConfig(init_lora_weights=False))])
def test_the_adapter_is_off(tiny_model, texts, wrap):
    """The base model's scores, whatever the adapter does; and the adapter is on again afterwards."""
    batches = batched(texts, 2, 3)
    for scorer in (taylor, gradient_norm, weight_magnitude):
        model = wrap(tiny_model())
        logits = model.eval()(**batches[0]).logits
        (base,) = scorer(tiny_model(), batches).values()
        (with_adapter,) = scorer(model, batches).values()
        np.testing.assert_array_equal(with_adapter, base)
        assert torch.equal(model(**batches[0]).logits, logits)


def test_taylor_of_bf16_weights_sums_batches_in_float32(tiny_model, texts):
    """Copies of one batch average to that batch's gradient; a bf16 running sum would drift by rounding."""
    model = tiny_model(dtype=torch.bfloat16)
    (batch,) = batched(texts, 5)
    once = taylor(model, [batch])["T"]
    repeated = taylor(model, [batch] * 64)["T"]
    # 1/64 is a power of two: scaling by it rounds nothing, so only the sum could.
    np.testing.assert_allclose(repeated, once, rtol=1e-5)


@ARCHITECTURES
@pytest.mark.parametrize("options", [{}, {"layers_at_once": 2}])
def test_gradient_norm_is_that_of_the_mean_sample_loss(tiny_model, texts, architecture, options):
    model = tiny_model(architecture)
    loss = torch.stack([token_nll(model, ids).mean() for ids in texts]).mean()
    expected = [torch.cat([d.flatten() for _, d in layer]).norm().item() for layer in layer_gradients_of(model, loss)]
    scores = gradient_norm(tiny_model(architecture), batched(texts, 2, 3), **options)
    assert scores["norm"].dtype == np.float64
    np.testing.assert_allclose(scores["norm"], expected, rtol=1e-5)


@ARCHITECTURES
def test_weight_magnitude_is_the_mean_over_all_weights_of_a_layer(tiny_model, architecture):
    model = tiny_model(architecture)
    expected = [
        torch.nn.utils.parameters_to_vector(layer.parameters()).abs().mean().item() for layer in model.model.layers
    ]
    scores = weight_magnitude(model, [])
    assert scores["magnitude"].dtype == np.float64
    np.testing.assert_allclose(scores["magnitude"], expected, rtol=1e-5)


class Output:
    def __init__(self, logits):
        self.logits = logits


class Skipping(nn.Module):
    """Two layers, the second only for batches that hold token 3: its weight misses some batches' backward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(4, 5)
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])
        self.head = nn.Linear(5, 4)

    def forward(self, input_ids, logits_to_keep, **_):
        hidden = self.layers[0](self.embed(input_ids))
        if (input_ids == 3).any():
            hidden = hidden + self.layers[1](hidden)
        return Output(self.head(hidden[logits_to_keep]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_weight_that_a_batch_does_not_use_keeps_its_gradient(order):
    model = Skipping()
    texts = [[3, 1, 2, 3], [0, 1, 2, 1]]
    rows = [torch.tensor([texts[n]]) for n in order]
    batches = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in rows]
    model.layers[1].weight.grad = torch.ones(5, 5)  # left over from something else
    T = taylor(model, batches)["T"]
    assert torch.equal(model.layers[1].weight.grad, torch.ones(5, 5))
    nll = []
    for row in rows:
        logits = model(row, torch.ones_like(row, dtype=torch.bool)).logits
        nll += [-torch.log_softmax(logits[t - 1], dim=0)[row[0, t]] for t in range(1, 4)]
    loss = torch.stack(nll).mean()
    expected = [
        sum(
            (d * p).abs().sum().item()
            for d, p in zip(torch.autograd.grad(loss, [*w], retain_graph=True), w, strict=True)
        )
        for w in [[*layer.parameters()] for layer in model.layers]
    ]
    np.testing.assert_allclose(T, expected, rtol=1e-5)


def state(model):
    """All that a scorer must leave alone."""
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=False).items()},
        "training": [module.training for module in model.modules()],
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: p.grad for name, p in model.named_parameters()},
        "hooks": [len(p._post_accumulate_grad_hooks or {}) for p in model.parameters()],
        "masks": [getattr(module, "mask", None) for module in model.modules()],
        "enabled": [getattr(module, "disable_adapters", None) for module in model.modules()],
    }


def assert_unchanged(model, before):
    after = state(model)
    for name, tensor in before.pop("weights").items():
        assert torch.equal(after["weights"][name], tensor), name
    after.pop("weights")
    assert after == before


def as_found(tiny_model):
    """A model with a mixture of flags and a .grad, none of which a scorer's own settings would give back."""
    model = adapted(tiny_model())
    decoder_layers(model)[1].eval()
    parameters = dict(model.named_parameters())
    frozen = next(name for name in parameters if "moe_lora_A" in name)
    parameters[frozen].requires_grad_(False)
    weight = model.get_input_embeddings().weight.requires_grad_(True)
    weight.grad = torch.ones_like(weight)
    return model


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_model_is_left_as_it_was(tiny_model, texts, scorer):
    model = as_found(tiny_model)
    before = state(model)
    with torch.no_grad():  # a caller's mode does not matter to the gradient
        scores = scorer(model, batched(texts, 2, 3))
    assert all(np.isfinite(array).all() for array in scores.values())
    assert_unchanged(model, before)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("scorer", [taylor, gradient_norm, fisher_gradients])
@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_the_model_is_left_as_it_was_after_an_exception(tiny_model, texts, scorer, moment):
    model = as_found(tiny_model)
    before = state(model)
    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Interrupted

    def interrupt_backward(module, args, output):
        output.register_hook(interrupt)

    middle = decoder_layers(model)[1]
    hook = middle.register_forward_hook(interrupt if moment == "forward" else interrupt_backward)
    with pytest.raises(Interrupted):
        scorer(model, batched(texts, 2, 3))
    hook.remove()
    assert_unchanged(model, before)


@pytest.mark.parametrize("scorer", [taylor, gradient_norm])
def test_wrong_arguments_are_refused(tiny_model, texts, scorer):
    with pytest.raises(ValueError, match="no batches"):
        scorer(tiny_model(), [])
    with pytest.raises(ValueError, match=r"Samples \[1\] have no completion token"):
        scorer(tiny_model(), batched([[5, 6], [7], [8, 9, 10]], 3))
    with pytest.raises(ValueError, match="layers_at_once is 0"):
        scorer(tiny_model(), batched(texts, 5), layers_at_once=0)
    with pytest.raises(ValueError, match="module lists named 'layers'"):
        scorer(nn.Linear(2, 2), batched(texts, 5))


@pytest.mark.parametrize("scorer", [taylor, gradient_norm])
def test_one_pass_unless_layers_at_once_asks_for_more(tiny_model, texts, scorer):
    """Forward passes per batch: one by default, and for a single batch always; ⌈L/g⌉ in groups of g."""

    def forwards(sizes, **options):
        model = tiny_model()
        count = []
        model.register_forward_hook(lambda *_: count.append(1))
        scorer(model, batched(texts, *sizes), **options)
        return len(count)

    assert forwards((2, 3)) == 2
    assert forwards((5,), layers_at_once=1) == 1
    assert forwards((2, 3), layers_at_once=2) == 4
    assert forwards((2, 3), layers_at_once=1) == 6


def test_only_the_layers_in_hand_want_or_keep_gradients(tiny_model, texts):
    model = tiny_model()
    wanting, keeping = [], []

    def look(*_):
        layers = list(model.model.layers)
        wanting.append([k for k in range(L) if any(p.requires_grad for p in layers[k].parameters())])
        keeping.append(sum(p.grad is not None for p in model.parameters()))

    model.register_forward_pre_hook(look)
    taylor(model, batched(texts, 2, 3), layers_at_once=2)
    assert wanting == [[0, 1], [0, 1], [2], [2]]
    assert keeping == [0, 0, 0, 0]


def test_a_single_batch_keeps_no_gradient_beyond_its_layer(tiny_model, texts):
    """Between two layers' backwards no gradient is alive, neither in .grad nor as a tensor of its shape."""
    model = tiny_model()
    shape = model.model.layers[0].mlp.gate_proj.weight.shape
    held = []

    def count(*_):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        held.append(len(gradients) + sum(type(x) is torch.Tensor and x.shape == shape for x in gc.get_objects()))

    for layer in model.model.layers[1:]:
        layer.register_full_backward_hook(count)
    taylor(model, batched(texts, 5))
    assert held == [0, 0]
    taylor(model, batched(texts, 2, 3))
    assert max(held) >= 2  # the count sees the sums that several batches need
