"""Layer importance: the scores that layer selection works on; `fisher` makes Fisher matrices of them.

A scorer is `fn(model, batches) -> {name: array}`. `batches` is a sequence of mappings with CPU tensors
`input_ids`, `attention_mask` and `labels`, each (B, T), padded on the right; a label of -100 carries no loss.
A scorer moves them to the model's device, scores in eval mode, and leaves the model as it found it: weights,
training mode, requires_grad and .grad.

Axes: N samples (rows of all batches, in order), L decoder layers, J adapted modules per layer. Losses are in
nats.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from harness.floe.decoder import base_weights, decoder_layers
from harness.floe.fisher import layer_gradients
from harness.floe.tuner import layer_masks

Batch = Mapping[str, Tensor]
Scores = dict[str, NDArray]

NO_LOSS = -100


def fisher_gradients(model: PeftModel, batches: Sequence[Batch]) -> Scores:
    """Gradient of every sample's loss with respect to the layer masks, from which every Fisher score follows.

    g_n = ∂ℓ_n/∂m at m = 1, with ℓ_n the mean NLL over sample n's completion tokens and m the masks on the
    updates of the active MoE-LoRA pilot adapter, one per adapted module. Row n of a batch has masks of its
    own, so one backward of Σ_n ℓ_n gives the whole batch. A layer's gradient is the sum of its modules'
    (`layer_gradients`). FLoE (arXiv 2506.00495), layer selection; true labels, so the empirical Fisher.

    Returns:
        `G` (N, L) float64: ∂ℓ_n/∂m by layer. `G_modules` (N, L, J) float32: by module, in sorted name order.
        `nll` (N,) float64: ℓ_n. `tokens` (N,) int64: completion tokens of each sample.
        `layers` (L,) int64: the index of each adapted decoder layer, 0..L-1 for a pilot on every layer.

    Raises:
        ValueError: no batches, a sample without a completion token, or no active MoE-LoRA adapter.
    """
    tokens = completion_tokens(batches)
    gradients, losses, layers = [], [], []
    with scoring(model):
        for batch in batches:
            with layer_masks(model, len(batch["input_ids"])) as (masks, layers):
                nll = sample_nll(model, batch)
                (gradient,) = torch.autograd.grad(nll.sum(), masks)
            gradients.append(gradient.cpu())
            losses.append(nll.detach().cpu())
    G_modules = torch.cat(gradients).numpy()
    return {
        "G": layer_gradients(G_modules),
        "G_modules": G_modules,
        "nll": torch.cat(losses).double().numpy(),
        "tokens": np.concatenate(tokens),
        "layers": np.asarray(layers, dtype=np.int64),
    }


def taylor(model: nn.Module, batches: Sequence[Batch], *, layers_at_once: int | None = None) -> Scores:
    """First-order Taylor importance of each layer for the pre-training loss, any adapter switched off.

    T_k = Σ_{θ ∈ base weights of layer k} |∂L_pre/∂θ · θ|, L_pre the mean NLL over all tokens of all batches:
    the gradient is averaged first (in float32), then the absolute value taken. FLoE (arXiv 2506.00495).

    Cost: a single batch takes one forward and one backward and holds one weight's gradient at a time,
    whatever `layers_at_once` is, because the backward completes each gradient at once, to be used and freed.
    Several batches need a running sum per weight, 4 bytes each. By default all L layers keep theirs, in one
    pass over the batches: the fastest, where memory allows. `layers_at_once=g` keeps those of g layers only
    and takes ⌈L/g⌉ passes, each with a backward no deeper than its lowest layer. The result is the same.

    Returns:
        `T` (L,) float64: nats.

    Raises:
        ValueError: no batches, a sample without a token to predict, or `layers_at_once` below 1.
    """
    total = int(np.concatenate(completion_tokens(batches)).sum())

    def loss(batch: Batch) -> Tensor:
        return torch.cat(_token_nll(model, batch)).sum() / total

    def taylor_sum(gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.mul_(weight).abs_().sum(dtype=torch.float64)

    return {"T": _sum_by_layer(model, batches, loss, taylor_sum, layers_at_once)}


def gradient_norm(model: nn.Module, batches: Sequence[Batch], *, layers_at_once: int | None = None) -> Scores:
    """L2 norm of each layer's base-weight gradient of the task loss (1/N) Σ_n ℓ_n, any adapter switched off.

    ℓ_n is the mean NLL over sample n's completion tokens, as for `fisher_gradients`; cost as for `taylor`.

    Returns:
        `norm` (L,) float64.

    Raises:
        ValueError: no batches, a sample without a completion token, or `layers_at_once` below 1.
    """
    samples = sum(map(len, completion_tokens(batches)))

    def loss(batch: Batch) -> Tensor:
        return sample_nll(model, batch).sum() / samples

    def squared_norm(gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.square_().sum(dtype=torch.float64)

    return {"norm": np.sqrt(_sum_by_layer(model, batches, loss, squared_norm, layers_at_once))}


def weight_magnitude(model: nn.Module, batches: Sequence[Batch]) -> Scores:
    """Mean |θ| over each layer's base weights. Needs no data: `batches` is there for the common signature.

    Returns:
        `magnitude` (L,) float64.
    """

    def mean_magnitude(weights: list[nn.Parameter]) -> float:
        total = sum(weight.detach().abs().sum(dtype=torch.float64).item() for weight in weights)
        return total / sum(weight.numel() for weight in weights)

    return {"magnitude": np.array([mean_magnitude(base_weights(layer)) for layer in decoder_layers(model)])}


def predicts_label(batch: Batch) -> Tensor:
    """(B, T) bool: the positions whose next token carries a label."""
    return F.pad(batch["labels"][:, 1:] != NO_LOSS, (0, 1), value=False)


def completion_tokens(batches: Sequence[Batch]) -> list[NDArray[np.int64]]:
    """Each batch's number of completion tokens per sample, (B,), checked before any compute is spent."""
    if not batches:
        raise ValueError("There are no batches to score on; expected at least one.")
    tokens = [predicts_label(batch).sum(dim=1).numpy() for batch in batches]
    empty = np.flatnonzero(np.concatenate(tokens) == 0)
    if empty.size:
        raise ValueError(
            f"Samples {empty.tolist()} have no completion token; expected a label to predict in every one."
        )
    return tokens


def _token_nll(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """The NLL of every labelled token, one float32 vector per sample."""
    device = next(model.parameters()).device
    predicts = predicts_label(batch)
    logits = model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        use_cache=False,
        # Only these positions meet the vocabulary: logits are (labelled tokens, V), not (B, T, V).
        logits_to_keep=predicts.to(device),
    ).logits
    targets = batch["labels"][:, 1:][predicts[:, :-1]].to(device)
    nll = F.cross_entropy(logits.float(), targets, reduction="none")
    return nll.split(predicts.sum(dim=1).tolist())


def sample_nll(model: nn.Module, batch: Batch) -> Tensor:
    """ℓ_n (B,): the mean NLL over each sample's labelled tokens."""
    return torch.stack([nll.mean() for nll in _token_nll(model, batch)])


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Eval mode, every weight frozen and without .grad; all as before on exit, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    try:
        model.eval()
        for weight, _, _ in weights:
            weight.requires_grad_(False).grad = None
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad, grad in weights:
            weight.requires_grad_(requires_grad).grad = grad


def _sum_by_layer(
    model: nn.Module,
    batches: Sequence[Batch],
    loss: Callable[[Batch], Tensor],
    measure: Callable[[Tensor, Tensor], Tensor],
    layers_at_once: int | None,
) -> NDArray[np.float64]:
    """Σ over layer k's base weights θ of measure(Σ_batches ∂loss/∂θ, θ), as (L,); any adapter is off."""
    weights = [base_weights(layer) for layer in decoder_layers(model)]
    if layers_at_once is not None and layers_at_once < 1:
        raise ValueError(f"layers_at_once is {layers_at_once}; expected at least 1, or None for all layers.")
    step = len(weights) if layers_at_once is None or len(batches) == 1 else layers_at_once
    sums: list[float] = []
    with scoring(model), model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        for first in range(0, len(weights), step):
            group = weights[first : first + step]
            measured = _measure_gradients(batches, loss, measure, [weight for layer in group for weight in layer])
            sums += [sum(measured[weight].item() for weight in layer if weight in measured) for layer in group]
    return np.array(sums)


def _measure_gradients(
    batches: Sequence[Batch],
    loss: Callable[[Batch], Tensor],
    measure: Callable[[Tensor, Tensor], Tensor],
    weights: list[nn.Parameter],
) -> dict[nn.Parameter, Tensor]:
    """measure(Σ_batches ∂loss/∂θ, θ) of each weight θ the loss depends on; `measure` may overwrite the sum.

    A gradient leaves .grad the moment the backward has completed it, for a float32 sum over the batches, and
    the last batch's frees the sum too: with one batch, no two weights' gradients live at the same time.
    """
    sums: dict[nn.Parameter, Tensor] = {}
    measured: dict[nn.Parameter, Tensor] = {}
    last = False

    def take(weight: nn.Parameter) -> None:
        assert weight.grad is not None  # PyTorch calls this hook once .grad is complete
        gradient = weight.grad.to(torch.promote_types(weight.grad.dtype, torch.float32))
        weight.grad = None
        sums[weight] = sums[weight].add_(gradient) if weight in sums else gradient
        if last:
            measured[weight] = measure(sums.pop(weight), weight.detach())

    hooks = [weight.requires_grad_(True).register_post_accumulate_grad_hook(take) for weight in weights]
    try:
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            loss(batch).backward()
    finally:
        for hook in hooks:
            hook.remove()
        for weight in weights:
            weight.requires_grad_(False)
    # A weight that the last batch did not touch (an expert with no token) still has its sum.
    return measured | {weight: measure(gradient, weight.detach()) for weight, gradient in sums.items()}
