"""Fisher over adapter parameters, against autograd one sample at a time and torch.func; what holds of all ablations."""

import numpy as np
import pytest
import torch
from peft import get_peft_model

from floe_bench.harness.floe.fisher import fisher_matrix
from floe_bench.harness.floe.fisher_ablations import (
    adapter_fisher,
    mask_fisher,
    parameter_diagonal,
    true_fisher_gradients,
)
from floe_bench.harness.floe.importance import fisher_gradients
from floe_bench.harness.floe.tuner import MoeLoraConfig

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

L, MODULES = 3, ["down_proj", "gate_proj", "up_proj"]
SCORERS = [true_fisher_gradients, parameter_diagonal, adapter_fisher]
ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "gemma2"])


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


def pilot(model, **settings):
    """MoE-LoRA on every layer with B far from 0, in training mode with dropout as a trainer leaves it."""
    torch.manual_seed(1)
    return get_peft_model(model, MoeLoraConfig(r=2, num_experts=3, init_weights=False, **settings)).train()


def sample_nll(model, ids, prompt):
    """Mean NLL of the tokens after the prompt, the sample alone and unpadded."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    nll = [-torch.log_softmax(logits[t - 1], dim=0)[ids[t]] for t in range(prompt, len(ids))]
    return torch.stack(nll).mean()


def experts(model):
    """(layer, parameter) of every B, by layer, then sorted module name."""
    by_name = dict(model.named_parameters())
    names = [
        [name for module in MODULES for name in by_name if f".{k}.mlp.{module}.moe_lora_B" in name] for k in range(L)
    ]
    return [(k, by_name[name]) for k in range(L) for name in names[k]]


def expert_gradients(model, samples):
    """∂ℓ_n/∂B flattened, of every sample alone: (N, P), by plain backward passes."""
    model.eval()
    rows = []
    for sample in samples:
        model.zero_grad()
        sample_nll(model, *sample).backward()
        rows.append(torch.cat([B.grad.flatten() for _, B in experts(model)]).double())
    model.zero_grad()
    return torch.stack(rows).numpy()


def expert_values(model):
    """B flattened, (P,), and the layer of every entry."""
    values = torch.cat([B.detach().flatten() for _, B in experts(model)]).double().numpy()
    return values, np.repeat([k for k, _ in experts(model)], [B.numel() for _, B in experts(model)])


def assert_close(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@ARCHITECTURES
def test_parameter_diagonal_is_that_of_each_samples_gradient(tiny_model, samples, architecture):
    model = pilot(tiny_model(architecture))
    scores = parameter_diagonal(model, batched(samples, [2, 3]))
    gradients, (values, layer) = expert_gradients(model, samples), expert_values(model)
    expected = [
        sum(v**2 * (g**2).mean() for v, g, k in zip(values, gradients.T, layer, strict=True) if k == i)
        for i in range(L)
    ]
    assert_close(scores["D"], expected)
    assert scores["D"].dtype == np.float64
    assert scores["layers"].tolist() == [0, 1, 2]


def test_adapter_fisher_is_the_mean_outer_product_of_each_samples_gradient(tiny_model, samples):
    model = pilot(tiny_model())
    scores = adapter_fisher(model, batched(samples, [2, 3]))
    gradients, (values, layer) = expert_gradients(model, samples), expert_values(model)
    expected = sum(np.outer(g, g) for g in gradients) / len(samples)
    assert_close(scores["F"], expected)
    assert scores["F"].dtype == scores["J"].dtype == np.float64
    np.testing.assert_array_equal(
        scores["J"], [[v if k == i else 0 for i in range(L)] for v, k in zip(values, layer, strict=True)]
    )


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap splits an addition in place
def test_adapter_fisher_is_that_of_torch_func(tiny_model, samples):
    """One vmap over samples of one length, in torch.func's own gradient transform."""
    model = pilot(tiny_model(attn_implementation="eager"))
    equal = [(ids[:4], 2) for ids, _ in samples]
    (batch,) = batched(equal, [5])
    F = adapter_fisher(model, [batch])["F"]
    model.eval()
    weights = {name: p.detach() for name, p in model.named_parameters() if "moe_lora_B" in name}

    def nll(weights, ids):
        logits = torch.func.functional_call(model, weights, kwargs={"input_ids": ids[None]}).logits[0]
        return torch.nn.functional.cross_entropy(logits[1:3], ids[2:])

    per_sample = torch.func.vmap(torch.func.grad(nll), in_dims=(None, 0))(weights, batch["input_ids"])
    ordered = [name for k in range(L) for module in MODULES for name in weights if f".{k}.mlp.{module}." in name]
    gradients = torch.cat([per_sample[name].flatten(1) for name in ordered], dim=1).detach().double().numpy()
    assert_close(F, np.einsum("np,nq->pq", gradients, gradients) / 5)


@ARCHITECTURES
def test_masks_and_all_of_B_say_the_same(tiny_model, samples, architecture):
    """∂ℓ/∂m_k = Σ_θ θ ∂ℓ/∂θ: hence Jᵀ F J = I, and D is what J leaves of the diagonal of F."""
    model = pilot(tiny_model(architecture))
    batches = batched(samples, [2, 3])
    G = fisher_gradients(model, batches)["G"]
    scores = adapter_fisher(model, batches)
    F, J = scores["F"], scores["J"]
    assert_close(mask_fisher(F, J), fisher_matrix(G))
    assert_close(parameter_diagonal(model, batches)["D"], (J**2).T @ np.diag(F), 1e-9)
    assert_close(expert_gradients(model, samples) @ J, G)


def test_a_subset_is_the_submatrix_of_the_whole(tiny_model, samples):
    model = pilot(tiny_model())
    batches = batched(samples, [5])
    whole = adapter_fisher(model, batches)
    sizes = [B.numel() for _, B in experts(model)]
    entries_of = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    # Modules by layer: down_proj, gate_proj, up_proj.
    cases = [
        ({"modules": ["down_proj"]}, [0, 3, 6], None),
        ({"modules": ("mlp.up_proj", "layers.0.mlp.down_proj"), "entries": 7}, [0, 2, 5, 8], 7),
        ({"modules": ["1.mlp.gate_proj"], "entries": 10**6}, [4], None),
        ({"entries": 1}, range(9), 1),
    ]
    for selection, modules, entries in cases:
        rows = np.concatenate([entries_of[i][:entries] for i in modules])
        part = adapter_fisher(model, batches, **selection)
        # Products of matrices of other shapes sum in another order: 5e-16 apart on processors with AVX512.
        np.testing.assert_allclose(part["F"], whole["F"][np.ix_(rows, rows)], rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(part["J"], whole["J"][rows])
        assert part["layers"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("scorer", [parameter_diagonal, adapter_fisher])
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [4, 1], [2, 3]])
def test_parameter_scores_do_not_depend_on_batching_or_padding(tiny_model, samples, scorer, sizes):
    model = pilot(tiny_model())
    together = scorer(model, batched(samples, [5]))
    apart = scorer(model, batched(samples, sizes))
    for name in together:
        np.testing.assert_array_equal(apart[name], together[name])


def test_an_expert_that_a_sample_does_not_use_has_gradient_0(tiny_model, samples):
    """The same zero as if its output did not matter; autograd itself would refuse."""
    model = pilot(tiny_model())
    skipped = model.get_submodule("base_model.model.model.layers.1.mlp")
    skipped.forward = lambda x: torch.zeros_like(x)
    D = parameter_diagonal(model, batched(samples, [5]))["D"]
    assert D[1] == 0 and D[0] > 0 and D[2] > 0


def test_adapted_layers_alone_are_scored(tiny_model, samples):
    model = pilot(tiny_model(), layers_to_transform=[0, 2])
    batches = batched(samples, [5])
    scores = adapter_fisher(model, batches, modules=["layers.2.mlp.down_proj"])
    assert scores["layers"].tolist() == parameter_diagonal(model, batches)["layers"].tolist() == [0, 2]
    assert scores["J"][:, 1].all() and not scores["J"][:, 0].any()


def test_mask_fisher_is_the_quadratic_form():
    rng = np.random.default_rng(0)
    F, J = rng.normal(size=(4, 4)), rng.normal(size=(4, 2))
    expected = [
        [sum(J[p, k] * F[p, q] * J[q, i] for p in range(4) for q in range(4)) for i in range(2)] for k in range(2)
    ]
    np.testing.assert_allclose(mask_fisher(F, J), expected, rtol=1e-12)
    for F_shape, J_shape in [((4, 3), (4, 2)), ((3, 3), (4, 2)), ((4, 4), (4,)), ((4,), (4, 2))]:
        with pytest.raises(ValueError, match=r"expected \(P, P\) and \(P, L\)"):
            mask_fisher(np.zeros(F_shape), np.zeros(J_shape))


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_fresh_adapter_scores_0(tiny_model, samples, scorer):
    """B = 0: nothing depends on the masks, and θ² is 0."""
    scores = scorer(get_peft_model(tiny_model(), MoeLoraConfig(r=1, num_experts=2)), batched(samples, [5]))
    assert not scores[{true_fisher_gradients: "G", parameter_diagonal: "D", adapter_fisher: "J"}[scorer]].any()


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_leave_the_model_as_it_was(tiny_model, samples, scorer):
    model = pilot(tiny_model())
    for number, (name, parameter) in enumerate(model.named_parameters()):
        parameter.requires_grad_("moe_lora_A" in name)
        if number % 2:
            parameter.grad = torch.full_like(parameter, number)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [(p.requires_grad, p.grad) for p in model.parameters()]
    scorer(model, batched(samples, [2, 3]))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    for (requires_grad, grad), parameter in zip(before, model.parameters(), strict=True):
        assert parameter.requires_grad == requires_grad and parameter.grad is grad
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("scorer", "name"), [(parameter_diagonal, "D"), (adapter_fisher, "F")])
def test_a_bf16_model_scores_close_to_float32(tiny_model, samples, scorer, name):
    half = pilot(tiny_model(dtype=torch.bfloat16, initializer_range=0.1))
    batches = batched(samples, [2, 3])
    score = scorer(half, batches)[name]
    exact = scorer(half.float(), batches)[name]
    assert np.linalg.norm(score - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("scorer", SCORERS)
def test_what_cannot_be_scored_is_refused(tiny_model, samples, scorer):
    model = pilot(tiny_model())
    with pytest.raises(ValueError, match="no batches"):
        scorer(model, [])
    empty = [(ids, len(ids) if n in (1, 4) else prompt) for n, (ids, prompt) in enumerate(samples)]
    with pytest.raises(ValueError, match=r"Samples \[1, 4\] have no completion token"):
        scorer(model, batched(empty, [2, 3]))
    with model.disable_adapter(), pytest.raises(ValueError, match="no active MoE-LoRA adapter"):
        scorer(model, batched(samples, [5]))


@pytest.mark.parametrize(
    ("scorer", "parameters", "message"),
    [
        (true_fisher_gradients, {"draws": 0}, "draws is 0; expected at least 1"),
        (true_fisher_gradients, {"seed": -1}, "seed is -1; expected at least 0"),
        (adapter_fisher, {"entries": 0}, "entries is 0; expected at least 1"),
        (adapter_fisher, {"modules": []}, "modules is empty"),
        (adapter_fisher, {"modules": ["up_proj", "dwn_proj"]}, r"named 'dwn_proj'; .* such as \['down_proj'"),
        (adapter_fisher, {"modules": ["proj"]}, "named 'proj'; expected the end of a path"),
        (adapter_fisher, {"modules": ["layers.7.mlp.up_proj"]}, r"such as \['layers\.\d\.mlp\.up_proj'"),
    ],
)
def test_invalid_parameters_are_refused(tiny_model, samples, scorer, parameters, message):
    with pytest.raises(ValueError, match=message):
        scorer(pilot(tiny_model()), batched(samples, [5]), **parameters)


def test_too_many_parameters_are_refused(tiny_model, samples):
    model = pilot(tiny_model(intermediate_size=400))
    with pytest.raises(ValueError, match=r"14688 adapter parameters are chosen; expected at most 4096"):
        adapter_fisher(model, batched(samples, [5]))
    assert adapter_fisher(model, batched(samples, [5]), entries=20)["F"].shape == (180, 180)
