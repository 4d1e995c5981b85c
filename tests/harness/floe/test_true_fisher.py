"""The true Fisher of `floe.fisher_ablations`, against sums over the whole vocabulary."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from scipy import stats

from floe_bench.harness.floe.fisher import fisher_diagonal, fisher_matrix
from floe_bench.harness.floe.fisher_ablations import true_fisher_gradients
from floe_bench.harness.floe.importance import fisher_gradients
from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLinear

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

L, V = 3, 32


@pytest.fixture
def samples():
    """Five (token ids, prompt length), of different lengths; the completion is what follows the prompt."""
    generator = torch.Generator().manual_seed(2)
    lengths = [(7, 3), (5, 1), (9, 6), (4, 2), (12, 5)]
    return [(torch.randint(3, 32, (T,), generator=generator).tolist(), prompt) for T, prompt in lengths]


def batched(samples, sizes):
    """Batches of the given sizes, padded on the right with token 0, labels on the completions only."""
    batches, left = [], list(samples)
    for size in sizes:
        rows, left = left[:size], left[size:]
        T = max(len(ids) for ids, _ in rows)
        batches.append(
            {
                "input_ids": torch.tensor([ids + [0] * (T - len(ids)) for ids, _ in rows]),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * (T - len(ids)) for ids, _ in rows]),
                "labels": torch.tensor([[-100] * p + ids[p:] + [-100] * (T - len(ids)) for ids, p in rows]),
            }
        )
    return batches


def pilot(model):
    """MoE-LoRA on every layer with B far from 0, in training mode with dropout as a trainer leaves it."""
    torch.manual_seed(1)
    return get_peft_model(model, MoeLoraConfig(r=2, num_experts=3, init_weights=False)).train()


def enumerated(model, ids, prompt):
    """Of every completion position t and every label y: ∂(−log p_t(y))/∂m (tokens, V, L), and p_t(y) (tokens, V).

    One scalar mask per layer, written as base output + m · (adapted − base output).
    """
    model.eval()
    masks = [torch.ones((), requires_grad=True) for _ in range(L)]

    def masked(mask):
        def hook(module, args, output):
            base = module.base_layer(*args)
            return base + mask * (output - base)

        return hook

    hooks = [
        module.register_forward_hook(masked(masks[k]))
        for k in range(L)
        for name, module in model.named_modules()
        if isinstance(module, MoeLoraLinear) and f"layers.{k}." in name
    ]
    logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : -1].double(), dim=-1)
    gradients = [torch.stack(torch.autograd.grad(-value, masks, retain_graph=True)) for value in logprobs.flatten()]
    for hook in hooks:
        hook.remove()
    return torch.stack(gradients).double().reshape(-1, V, L).numpy(), logprobs.detach().exp().numpy()


def assert_close(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_a_single_label_follows_the_predictive_distribution(tiny_model):
    """With one completion token the expectation over labels is a sum over the vocabulary."""
    model = pilot(tiny_model(initializer_range=0.15))
    sample = ([5, 9, 17, 4], 3)
    (g,), (p,) = enumerated(model, *sample)
    np.testing.assert_allclose(p @ g, 0, atol=1e-5 * np.abs(g).max())  # E[g] = 0

    N, draws = 1000, 2  # copies of the sample: each has draws of its own
    scores = true_fisher_gradients(model, batched([sample] * N, [N]), draws=draws)
    drawn = np.abs(scores["nll"][:, None] + np.log(p)).argmin(axis=1)
    np.testing.assert_allclose(scores["nll"], -np.log(p)[drawn], atol=1e-5)
    assert_close(scores["G"], g[drawn])

    expected = p * N * draws
    assert expected.min() > 5 and expected.max() > 5 * expected.min()
    assert stats.chisquare(np.bincount(drawn, minlength=V), expected).pvalue > 0.01

    outer = g[:, :, None] * g[:, None, :]
    exact = np.einsum("v,vkl->kl", p, outer)
    error = np.sqrt((np.einsum("v,vkl->kl", p, outer**2) - exact**2) / (N * draws))
    assert (np.abs(fisher_matrix(scores["G"]) - exact) < 4 * error).all()
    assert (np.abs(scores["G"].mean(axis=0)) < 4 * np.sqrt(np.diag(exact) / (N * draws))).all()
    # The empirical Fisher, of the data's own label, is far from it.
    empirical = fisher_diagonal(fisher_gradients(model, batched([sample], [1]))["G"])
    assert (np.abs(empirical - np.diag(exact)) > 10 * np.diag(error)).any()


def test_labels_are_drawn_independently_given_the_datas_prefix(tiny_model):
    """Two completion tokens: every row is the mean of two enumerated gradients at the data's own prefixes."""
    model = pilot(tiny_model(initializer_range=0.15))
    sample, N = ([5, 9, 17, 4], 2), 500
    g, p = enumerated(model, *sample)
    scores = true_fisher_gradients(model, batched([sample] * N, [N]))
    rows = np.concatenate([scores["G"], scores["nll"][:, None]], axis=1)
    first, second = np.concatenate([g, -np.log(p)[..., None]], axis=2)
    pairs = ((first[:, None] + second[None, :]) / 2).reshape(V * V, L + 1)
    nearest = np.abs(rows[:, None] - pairs).max(axis=2).argmin(axis=1)
    assert_close(rows, pairs[nearest])

    counts = np.bincount(nearest, minlength=V * V).reshape(V, V)
    for observed, probability in ((counts.sum(axis=1), p[0]), (counts.sum(axis=0), p[1])):
        assert stats.chisquare(observed, probability * N).pvalue > 0.01
    # The cross terms of the two tokens vanish: E[g gᵀ] = (1/T²) Σ_t E[g_t g_tᵀ].
    exact = np.einsum("tv,tvk,tvl->kl", p, g, g) / 4
    error = np.std(scores["G"][:, :, None] * scores["G"][:, None, :], axis=0) / np.sqrt(N)
    assert (np.abs(fisher_matrix(scores["G"]) - exact) < 4 * error).all()


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [4, 1], [2, 3]])
def test_draws_do_not_depend_on_batching_or_padding(tiny_model, samples, sizes):
    model = pilot(tiny_model())
    together = true_fisher_gradients(model, batched(samples, [5]), draws=2)
    apart = true_fisher_gradients(model, batched(samples, sizes), draws=2)
    for name in ("G", "G_modules", "nll"):
        # Products of other shapes sum in another order: float32's 6e-8, amplified over three layers forth and back.
        assert_close(apart[name], together[name])
    assert apart["tokens"].tolist() == together["tokens"].tolist() == [4, 4, 3, 2, 7] * 2


def test_draws_depend_on_the_seed_alone(tiny_model, samples):
    model, batches = pilot(tiny_model()), batched(samples, [2, 3])
    runs = []
    for global_seed, seed in [(11, 5), (12, 5), (11, 6)]:
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        runs.append(true_fisher_gradients(model, batches, seed=seed)["nll"])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).all()


def test_global_random_state_is_left_alone(tiny_model, samples):
    model, batches = pilot(tiny_model()), batched(samples, [2, 3])
    torch.manual_seed(11)
    np.random.seed(11)
    expected = torch.rand(3).tolist(), np.random.random(3).tolist()
    torch.manual_seed(11)
    np.random.seed(11)
    true_fisher_gradients(model, batches)
    assert (torch.rand(3).tolist(), np.random.random(3).tolist()) == expected


def test_draws_are_stacked_and_further_ones_leave_the_earlier(tiny_model, samples):
    model, batches = pilot(tiny_model()), batched(samples, [2, 3])
    one, three = (true_fisher_gradients(model, batches, draws=draws) for draws in (1, 3))
    assert three["G"].shape == (15, L) and three["G_modules"].shape == (15, L, 3)
    assert three["layers"].tolist() == [0, 1, 2]
    for name in ("G", "G_modules", "nll", "tokens"):
        # Several draws may share a product whose shape another kernel serves: float32 rounding.
        assert_close(three[name][:5], one[name])
    assert len(set(three["nll"])) == 15


def test_equal_samples_have_labels_of_their_own(tiny_model, samples):
    nll = true_fisher_gradients(pilot(tiny_model()), batched([samples[4]] * 3, [2, 1]))["nll"]
    assert len(set(nll)) == 3


def test_the_batches_are_left_as_they_were(tiny_model, samples):
    batches = batched(samples, [2, 3])
    before = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
    true_fisher_gradients(pilot(tiny_model()), batches)
    for batch, copy in zip(batches, before, strict=True):
        assert all(torch.equal(batch[name], copy[name]) for name in copy)
