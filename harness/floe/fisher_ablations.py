"""Ablations of the Fisher layer score: labels drawn from the model, and parameters instead of layer masks.

Scorers, batches and axes are those of `floe.importance`. All need an active MoE-LoRA adapter, the pilot.
B is the stacked experts [B_1 … B_M] of one adapted module, (d_out, M·r).
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from peft import PeftModel
from torch import Tensor, nn

from floe_bench.harness.floe.decoder import decoder_layers
from floe_bench.harness.floe.fisher import fisher_matrix
from floe_bench.harness.floe.importance import Batch, Scores, completion_tokens, fisher_gradients, sample_nll, scoring
from floe_bench.harness.floe.labels import predicts_label
from floe_bench.harness.floe.tuner import MoeLoraLayer

MAX_PARAMETERS = 4096


class _Experts(NamedTuple):
    """The weight B of one adapted module, with its decoder layer k and its path."""

    layer: int
    path: str
    B: Tensor


def true_fisher_gradients(model: PeftModel, batches: Sequence[Batch], *, seed: int = 0, draws: int = 1) -> Scores:
    """Compute `fisher_gradients` with labels drawn from the model. They give the true Fisher, not the empirical one.

    Every completion label is drawn from p(· | prefix), where the prefix holds the data's own tokens.
    The true Fisher is I = (1/N) Σ_n E_{y ~ p}[g_n(y) g_n(y)ᵀ] (Kunstner et al., arXiv 1905.12558).
    `fisher_matrix(G)` converges to it with the number of draws.

    E_y[g_n] = 0 and the T_n labels of a sample are independent. So the cross terms between its tokens vanish:
    sample n contributes 1/T_n times the Gauss-Newton matrix of ℓ_n. The empirical Fisher keeps the cross terms.

    The labels of sample n depend only on `seed`, n and p, neither on global random state nor on the batch.
    (Rounding may move a draw that falls on the edge between two labels.) More draws leave earlier ones unchanged.
    One forward draws the labels. Each draw costs as much as `fisher_gradients`.

    Returns:
        The arrays of `fisher_gradients` with draws·N rows. Row d·N + n is draw d of sample n.
        `nll` is that of the drawn labels.

    Raises:
        ValueError: as `fisher_gradients`, or `draws` below 1, or `seed` below 0.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected at least 0.")
    n, drawn = 0, []
    for batch, tokens in zip(batches, completion_tokens(batches), strict=True):
        uniforms = [np.random.default_rng([seed, n + i]).random((draws, count)) for i, count in enumerate(tokens)]
        drawn.append(_draw_labels(model, batch, [torch.from_numpy(u.T.copy()) for u in uniforms]))
        n += len(tokens)
    return fisher_gradients(model, [batch for one_draw in zip(*drawn, strict=True) for batch in one_draw])


def parameter_diagonal(model: PeftModel, batches: Sequence[Batch]) -> Scores:
    """Compute the parameter diagonal of the empirical Fisher by layer: I_kk without cross terms between parameters.

    D_k = Σ_{θ ∈ B of layer k} θ² (1/N) Σ_n (∂ℓ_n/∂θ)².
    The update is linear in B, so I_kk = (1/N) Σ_n (Σ_{θ ∈ B of layer k} θ ∂ℓ_n/∂θ)².
    Costs one forward and one backward per sample, and the memory of one sample's ∂ℓ_n/∂B.

    Returns:
        `D` (L,) float64. `layers` (L,) int64: the index of each adapted decoder layer.

    Raises:
        ValueError: no batches, a sample without a completion token, or no active MoE-LoRA adapter.
    """
    samples = sum(map(len, completion_tokens(batches)))
    experts = _active_experts(model)
    layers = _layer_numbers(experts)
    D = np.zeros(len(layers))
    with scoring(model):
        for gradients in _sample_gradients(model, batches, [each.B for each in experts]):
            for each, gradient in zip(experts, gradients, strict=True):
                product = each.B.detach().double() * gradient.double()
                D[layers == each.layer] += product.square().sum().item()
    return {"D": D / samples, "layers": layers}


def adapter_fisher(
    model: PeftModel, batches: Sequence[Batch], *, modules: Sequence[str] | None = None, entries: int | None = None
) -> Scores:
    """Compute the full empirical Fisher over a subset of the adapter's parameters B, with all cross terms.

    F = (1/N) Σ_n ∂ℓ_n/∂θ (∂ℓ_n/∂θ)ᵀ. Costs one forward and one backward per sample; memory N·P + P².
    `mask_fisher(F, J)` gives the Fisher of the layer masks from it.

    Args:
        modules: the adapted modules whose B take part. Each is named by the end of its path, as in PEFT's
            target_modules: "down_proj", "layers.3.mlp.down_proj". None takes all modules.
        entries: how many entries of each B take part, the first ones in row-major order. (First come all
            experts of the first output feature.) None, or more than B has, takes all entries.

    Returns:
        `F` (P, P) float64: by ascending layer, then module path, then entry of B.
        `J` (P, L) float64: ∂θ/∂m. Column k holds the values θ of layer k's parameters, 0 for other layers'.
        `layers` (L,) int64: the index of each adapted decoder layer, also of layers with no chosen parameter.

    Raises:
        ValueError: no batches, a sample without a completion token, no active MoE-LoRA adapter, a name that fits
            no adapted module, `entries` below 1, or more than 4,096 parameters.
    """
    completion_tokens(batches)
    experts = _active_experts(model)
    chosen = experts if modules is None else _experts_named(experts, modules)
    if entries is not None and entries < 1:
        raise ValueError(f"entries is {entries}; expected at least 1, or None for all.")
    values = [each.B.detach().flatten()[:entries].double().cpu().numpy() for each in chosen]
    P = sum(map(len, values))
    if P > MAX_PARAMETERS:
        raise ValueError(
            f"{P} adapter parameters are chosen; expected at most {MAX_PARAMETERS}: take fewer modules or entries."
        )
    with scoring(model):
        gradients = [
            torch.cat([gradient.flatten()[:entries].double().cpu() for gradient in of_sample]).numpy()
            for of_sample in _sample_gradients(model, batches, [each.B for each in chosen])
        ]
    layers = _layer_numbers(experts)
    return {
        "F": fisher_matrix(np.stack(gradients)),
        "J": np.concatenate([np.outer(of_B, layers == each.layer) for each, of_B in zip(chosen, values, strict=True)]),
        "layers": layers,
    }


def mask_fisher(F: ArrayLike, J: ArrayLike) -> NDArray[np.float64]:
    """Return the Fisher I (L, L) = Jᵀ F J of the layer masks.

    A mask scales the B of its layer and the update is linear in B, so ∂ℓ/∂m = Jᵀ ∂ℓ/∂θ.
    With all of B in `adapter_fisher` this equals `fisher_matrix(G)`. With fewer entries it is their part of it.

    Args:
        F: (P, P), the Fisher of parameters θ.
        J: (P, L), ∂θ/∂m.

    Raises:
        ValueError: F is not square, or J has not one row per parameter.
    """
    F, J = np.asarray(F, dtype=np.float64), np.asarray(J, dtype=np.float64)
    if F.ndim != 2 or J.ndim != 2 or F.shape != (len(J), len(J)):
        raise ValueError(f"F and J have shapes {F.shape} and {J.shape}; expected (P, P) and (P, L).")
    return J.T @ F @ J


def _draw_labels(model: nn.Module, batch: Batch, uniforms: Sequence[Tensor]) -> list[Batch]:
    """Return one copy of `batch` per draw, with labels drawn by inverse-transform sampling.

    `uniforms` holds each sample's uniform numbers in [0, 1), (tokens, draws).
    """
    device = next(model.parameters()).device
    predicts = predicts_label(batch)
    with scoring(model), torch.no_grad():
        logits = model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            use_cache=False,
            logits_to_keep=predicts.to(device),
        ).logits
    drawn = []
    # One sample at a time limits memory: the CDF takes 8 bytes per token and vocabulary entry.
    for of_sample, uniform in zip(logits.split([len(u) for u in uniforms]), uniforms, strict=True):
        cdf = of_sample.double().softmax(dim=-1).cumsum(dim=-1)
        label = torch.searchsorted(cdf, uniform.to(device), right=True)
        # Rounding may end the CDF just below 1, below the uniform number.
        drawn.append(label.clamp_(max=cdf.shape[-1] - 1).cpu())
    redrawn = []
    for labels in torch.cat(drawn).unbind(dim=1):
        redrawn.append({**batch, "labels": batch["labels"].clone()})
        redrawn[-1]["labels"][:, 1:][predicts[:, :-1]] = labels
    return redrawn


def _sample_gradients(
    model: nn.Module, batches: Sequence[Batch], weights: Sequence[Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    """Yield ∂ℓ_n/∂θ of each of `weights` for every sample n in turn. Use it within `scoring`."""
    for weight in weights:
        weight.requires_grad_(True)
    for batch in batches:
        for n, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
            sample = {name: tensor[n : n + 1, :length] for name, tensor in batch.items()}
            # A weight that the sample does not use has gradient 0.
            yield torch.autograd.grad(sample_nll(model, sample).sum(), weights, materialize_grads=True)


def _active_experts(model: nn.Module) -> list[_Experts]:
    """Return B of every enabled adapter, by ascending layer, then module path. Raises ValueError for none."""
    experts = [
        _Experts(k, f"layers.{k}.{path}", cast(nn.Linear, module.moe_lora_B[adapter]).weight)
        for k, layer in enumerate(decoder_layers(model))
        for path, module in sorted(layer.named_modules(), key=lambda item: item[0])
        if isinstance(module, MoeLoraLayer)
        for adapter in module.enabled_adapters
    ]
    if not experts:
        raise ValueError("The model has no active MoE-LoRA adapter to score; add or enable one first.")
    return experts


def _layer_numbers(experts: Sequence[_Experts]) -> NDArray[np.int64]:
    return np.unique([each.layer for each in experts])


def _experts_named(experts: Sequence[_Experts], modules: Sequence[str]) -> list[_Experts]:
    """Return the `experts` whose module path ends in one of the names in `modules`."""

    def fits(each: _Experts, name: str) -> bool:
        return f".{each.path}".endswith(f".{name}")

    if not modules:
        raise ValueError("modules is empty; expected at least one name, or None for all adapted modules.")
    for name in modules:
        if not any(fits(each, name) for each in experts):
            paths = [each.path for each in experts]
            last = sorted({path.rpartition(".")[2] for path in paths})
            near = difflib.get_close_matches(name, last + paths) or last
            raise ValueError(f"No adapted module is named {name!r}; expected the end of a path, such as {near}.")
    return [each for each in experts if any(fits(each, name) for name in modules)]
