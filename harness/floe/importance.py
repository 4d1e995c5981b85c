"""Layer importance scores, the input of layer selection. `fisher` turns them into Fisher matrices.

A scorer is `fn(model, batches) -> {name: array}`. `batches` is a sequence of mappings with CPU tensors
`input_ids`, `attention_mask` and `labels`, each (B, T), padded on the right. A label of -100 carries no loss.
A scorer moves the batches to the model's device and scores in eval mode. It restores the model: weights,
training mode, requires_grad and .grad.

Axes: N samples (rows of all batches, in order), L decoder layers, J adapted modules per layer.
Losses are in nats.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from floe_bench.harness.floe.decoder import base_weights, decoder_layers
from floe_bench.harness.floe.fisher import summed_over_modules
from floe_bench.harness.floe.labels import predicts_label
from floe_bench.harness.floe.tuner import layer_masks

Batch = Mapping[str, Tensor]
Scores = dict[str, NDArray]


def fisher_gradients(model: PeftModel, batches: Sequence[Batch]) -> Scores:
    """Compute the gradient of every sample's loss with respect to the layer masks. All Fisher scores follow from it.

    g_n = ∂ℓ_n/∂m at m = 1, where ℓ_n is the mean NLL over sample n's completion tokens.
    m are the masks on the updates of the active MoE-LoRA pilot adapter, one per adapted module.
    Each row of a batch has its own masks, so one backward of Σ_n ℓ_n serves the whole batch.
    A layer's gradient is the sum of its modules' (`summed_over_modules`).
    The labels are the data's, so this is the empirical Fisher (FLoE, arXiv 2506.00495, layer selection).

    Returns:
        `G` (N, L) float64: ∂ℓ_n/∂m by layer.
        `G_modules` (N, L, J) float32: by module, in sorted name order.
        `nll` (N,) float64: ℓ_n.
        `tokens` (N,) int64: completion tokens of each sample.
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
        "G": summed_over_modules(G_modules),
        "G_modules": G_modules,
        "nll": torch.cat(losses).double().numpy(),
        "tokens": np.concatenate(tokens),
        "layers": np.asarray(layers, dtype=np.int64),
    }


def taylor(model: nn.Module, batches: Sequence[Batch]) -> Scores:
    """Compute the first-order Taylor importance of each layer for the pre-training loss. Switches adapters off.

    T_k = Σ_{θ ∈ base weights of layer k} |∂L_pre/∂θ · θ| (FLoE, arXiv 2506.00495, layer selection).
    L_pre is the mean NLL over all tokens of all batches.
    The gradient is averaged first (in float32), then the absolute value is taken.

    Cost: one forward and one backward per batch. Several batches also repeat all but the last product of every
    layer's forward.

    Memory beside the model: one layer's gradients, summed over batches in float32; the hidden states between
    layers of every batch; and the larger of two: one layer's activations (all layers' for a single batch), or
    one batch's logits.

    Returns:
        `T` (L,) float64: nats.

    Raises:
        ValueError: no batches, a sample without a token to predict, decoder layers that share weights, or a model
            that does not call each of them once, in order.
    """
    total = int(np.concatenate(completion_tokens(batches)).sum())

    def loss(batch: Batch) -> Tensor:
        return torch.cat(_token_nll(model, batch)).sum() / total

    def taylor_sum(gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.mul_(weight).abs_().sum(dtype=torch.float64)

    return {"T": _sum_by_layer(model, batches, loss, taylor_sum)}


def gradient_norm(model: nn.Module, batches: Sequence[Batch]) -> Scores:
    """Compute the L2 norm of each layer's base-weight gradient of the task loss (1/N) Σ_n ℓ_n. Switches adapters off.

    ℓ_n is the mean NLL over sample n's completion tokens, as for `fisher_gradients`. The cost is that of `taylor`.

    Returns:
        `norm` (L,) float64.

    Raises:
        ValueError: as `taylor`.
    """
    samples = sum(map(len, completion_tokens(batches)))

    def loss(batch: Batch) -> Tensor:
        return sample_nll(model, batch).sum() / samples

    def squared_norm(gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.square_().sum(dtype=torch.float64)

    return {"norm": np.sqrt(_sum_by_layer(model, batches, loss, squared_norm))}


def weight_magnitude(model: nn.Module, batches: Sequence[Batch]) -> Scores:
    """Compute the mean |θ| over each layer's base weights. Ignores `batches`, which only keeps the common signature.

    Returns:
        `magnitude` (L,) float64.
    """

    def mean_magnitude(weights: list[nn.Parameter]) -> float:
        total = sum(weight.detach().abs().sum(dtype=torch.float64).item() for weight in weights)
        return total / sum(weight.numel() for weight in weights)

    return {"magnitude": np.array([mean_magnitude(base_weights(layer)) for layer in decoder_layers(model)])}


def completion_tokens(batches: Sequence[Batch]) -> list[NDArray[np.int64]]:
    """Count the completion tokens per sample, (B,) for each batch. Call it before any compute is spent.

    Raises:
        ValueError: there are no batches, or a sample has no completion token.
    """
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
    """Return the NLL of every labelled token, one float32 vector per sample."""
    device = next(model.parameters()).device
    predicts = predicts_label(batch)
    logits = model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        use_cache=False,
        # Logits at these positions only: (labelled tokens, V), not (B, T, V).
        logits_to_keep=predicts.to(device),
    ).logits
    targets = batch["labels"][:, 1:][predicts[:, :-1]].to(device)
    nll = F.cross_entropy(logits.float(), targets, reduction="none")
    return nll.split(predicts.sum(dim=1).tolist())


def sample_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Return ℓ_n (B,): the mean NLL over each sample's labelled tokens."""
    return torch.stack([nll.mean() for nll in _token_nll(model, batch)])


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, with all weights frozen and without .grad. Restore everything on exit."""
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
) -> NDArray[np.float64]:
    """Return Σ over layer k's base weights θ of measure(Σ_batches ∂loss/∂θ, θ), as (L,). Switches adapters off.

    All batches go through the backward pass together, one layer at a time. So only one layer's gradients live at
    any time. Their sums over batches are float32 or wider; `measure` may overwrite them.
    """
    layers = list(decoder_layers(model))
    weights = [base_weights(layer) for layer in layers]
    _refuse_shared(weights)
    # The backward of a single batch follows its forward at once, so its activations may stay.
    forward = partial(_LayerwiseBackward, layers, loss, recompute=len(batches) > 1)
    sums_by_layer = np.zeros(len(layers))
    with scoring(model), model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        for weight in chain.from_iterable(weights):
            weight.requires_grad_(True)
        # `map` is lazy: a batch frees its logits and last layer before the next batch's forward.
        backwards: Iterable[_LayerwiseBackward] = map(forward, batches)
        for k in reversed(range(len(layers))):
            sums: dict[nn.Parameter, Tensor] = {}
            under_way = []
            for backward in backwards:
                _add(sums, weights[k], backward.through_layer(weights[k]))
                under_way.append(backward)
            backwards = under_way
            measured = [measure(sums.pop(weight), weight.detach()) for weight in weights[k] if weight in sums]
            sums_by_layer[k] = sum(value.item() for value in measured)
    return sums_by_layer


class _LayerwiseBackward:
    """The forward of one batch, then its backward, one decoder layer at a time from last to first.

    Between the steps it holds the hidden states that enter the layers still to come. With `recompute` the
    backward recomputes all other activations of these layers. The last layer keeps its own, because its backward
    comes first.

    Raises:
        ValueError: the forward does not call every layer once, in order.
    """

    def __init__(
        self, layers: Sequence[nn.Module], loss: Callable[[Batch], Tensor], batch: Batch, *, recompute: bool
    ) -> None:
        with ExitStack() as recomputed, _layer_inputs(layers) as self._inputs:
            for layer in layers[:-1] if recompute else []:
                recomputed.enter_context(_recomputed(layer))
            self._output = loss(batch)
        self._gradient: Tensor | None = None  # ∂loss/∂output; None stands for 1

    def through_layer(self, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """Return ∂loss/∂θ of the next layer's `weights`; None for a weight that the batch does not use."""
        hidden = self._inputs.pop()
        # The first layer's input depends on no differentiated weight.
        wanted = [*weights, hidden] if hidden.requires_grad else weights
        gradients: list[Tensor | None] = []
        gradients += torch.autograd.grad(self._output, wanted, self._gradient, allow_unused=True)
        self._output, self._gradient = hidden, gradients.pop() if hidden.requires_grad else None
        return gradients


@contextmanager
def _layer_inputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the hidden states that enter each layer in one forward pass.

    Raises:
        ValueError: the model does not call each layer once, in order.
    """
    called: list[nn.Module] = []
    inputs: list[Tensor] = []

    def collect(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called.append(layer)
        inputs.append(args[0] if args else kwargs["hidden_states"])

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(collect, with_kwargs=True))
        yield inputs
    if called != list(layers):
        order = [layers.index(layer) for layer in called]
        raise ValueError(f"The model called its {len(layers)} decoder layers as {order}; expected each once, in order.")


@contextmanager
def _recomputed(layer: nn.Module) -> Iterator[None]:
    """Make the forward of `layer` save its input only; the backward recomputes the rest."""
    own = vars(layer).get("forward")
    # Eval mode draws no random numbers, so there is no random state to preserve.
    layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


def _add(sums: dict[nn.Parameter, Tensor], weights: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Add the gradients to the running `sums`, in float32 or wider."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is None:
            continue
        if weight in sums:
            sums[weight].add_(gradient)
        else:
            sums[weight] = gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def _refuse_shared(weights: Sequence[Sequence[nn.Parameter]]) -> None:
    """Raise ValueError where two decoder layers share a weight."""
    layer_of: dict[nn.Parameter, int] = {}
    for k, of_layer in enumerate(weights):
        for weight in of_layer:
            if layer_of.setdefault(weight, k) != k:
                raise ValueError(
                    f"Decoder layers {layer_of[weight]} and {k} share a weight; expected every layer to have its own."
                )
