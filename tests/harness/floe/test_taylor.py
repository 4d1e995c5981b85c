"""Scores of the base weights (Taylor, gradient norm, magnitude), and that no scorer changes the model."""

import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig

from floe_bench.harness.floe.decoder import decoder_layers
from floe_bench.harness.floe.importance import fisher_gradients, gradient_norm, taylor, weight_magnitude
from floe_bench.harness.floe.tuner import MoeLoraConfig

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
    """Batches of the given sizes, each padded on the right to its longest text."""

    def padded(rows, value):
        T = max(map(len, rows))
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


def accumulated(model, batches, sample_weight):
    """[(θ, Σ_batches .grad of θ in float32), …] by layer, of a backward through the whole model per batch.

    sample_weight(nll): the share in the loss of each token of a sample.
    """
    model.requires_grad_(True)
    weights = [list(layer.parameters()) for layer in model.model.layers]
    sums = {w: torch.zeros_like(w, dtype=torch.float32) for layer in weights for w in layer}
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        predicts = batch["labels"][:, 1:] != -100
        loss = torch.zeros(())
        for of_sample, labels, counts in zip(logits[:, :-1], batch["labels"][:, 1:], predicts, strict=True):
            nll = torch.nn.functional.cross_entropy(of_sample[counts].float(), labels[counts], reduction="none")
            loss = loss + (sample_weight(nll) * nll).sum()
        loss.backward()
        for w in sums:
            sums[w] += w.grad
        model.zero_grad()
    return [[(w.detach().double(), sums[w].double()) for w in layer] for layer in weights]


@ARCHITECTURES
@pytest.mark.parametrize("sizes", [(5,), (2, 3), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_those_of_accumulated_gradients(tiny_model, texts, architecture, sizes, dtype):
    # Smaller weights than the fixture's: there bfloat16's rounding is amplified from layer to layer.
    scale = 0.3 if dtype == torch.float32 else 0.1
    model = tiny_model(architecture, dtype, initializer_range=scale)
    rtol = 1e-5 if dtype == torch.float32 else 2e-3
    batches = batched(texts, *sizes)
    tokens = sum(len(text) - 1 for text in texts)
    T = [
        sum((w * d).abs().sum().item() for w, d in layer) for layer in accumulated(model, batches, lambda _: 1 / tokens)
    ]
    np.testing.assert_allclose(taylor(model, batches)["T"], T, rtol=rtol)
    gradients = accumulated(model, batches, lambda nll: 1 / len(nll) / len(texts))
    norms = [torch.cat([d.flatten() for _, d in layer]).norm().item() for layer in gradients]
    np.testing.assert_allclose(gradient_norm(model, batches)["norm"], norms, rtol=rtol)


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
def test_gradient_norm_is_that_of_the_mean_sample_loss(tiny_model, texts, architecture):
    model = tiny_model(architecture)
    loss = torch.stack([token_nll(model, ids).mean() for ids in texts]).mean()
    expected = [torch.cat([d.flatten() for _, d in layer]).norm().item() for layer in layer_gradients_of(model, loss)]
    scores = gradient_norm(tiny_model(architecture), batched(texts, 2, 3))
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
    """A layer whose second weight serves only batches that hold token 3, and misses the others' backward."""

    def __init__(self):
        super().__init__()
        self.always, self.seldom = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, hidden, used):
        hidden = self.always(hidden)
        return hidden + self.seldom(hidden) if used else hidden


class TwoLayers(nn.Module):
    def __init__(self, order=(0, 1)):
        super().__init__()
        torch.manual_seed(0)
        self.config = LlamaConfig(num_hidden_layers=2)
        self.embed = nn.Embedding(4, 5).requires_grad_(False)
        self.layers = nn.ModuleList([Skipping(), Skipping()])
        self.head = nn.Linear(5, 4)
        self.order = order

    def forward(self, input_ids, logits_to_keep, **_):
        hidden = self.embed(input_ids)
        for k in self.order:
            hidden = self.layers[k](hidden, used=bool((input_ids == 3).any()))
        return Output(self.head(hidden[logits_to_keep]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_weight_that_a_batch_does_not_use_keeps_its_gradient(order):
    model = TwoLayers()
    texts = [[3, 1, 2, 3], [0, 1, 2, 1]]
    rows = [torch.tensor([texts[n]]) for n in order]
    batches = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in rows]
    weight = model.get_parameter("layers.1.seldom.weight")
    weight.grad = torch.ones(5, 5)  # left over from something else
    T = taylor(model, batches)["T"]
    assert torch.equal(weight.grad, torch.ones(5, 5))
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
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
        "forward": [vars(module).get("forward") for module in model.modules()],
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
    first = decoder_layers(model)[0]
    first.forward = first.forward  # as accelerate's hooks wrap a module
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
    with pytest.raises(ValueError, match="Linear has no configuration"):
        scorer(nn.Linear(2, 2), batched(texts, 5))


@pytest.mark.parametrize("order", [(0,), (0, 1, 1), (1, 0)])
def test_a_model_that_does_not_call_each_layer_once_in_order_is_refused(order):
    row = torch.tensor([[3, 1, 2, 3]])
    batch = {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row}
    with pytest.raises(ValueError, match=rf"called its 2 decoder layers as {re.escape(str(list(order)))}; expected"):
        taylor(TwoLayers(order), [batch, batch])


def test_layers_that_share_a_weight_are_refused(tiny_model, texts):
    model = tiny_model()
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ValueError, match="Decoder layers 0 and 2 share a weight"):
        taylor(model, batched(texts, 5))
