"""Taylor scoring against one forward and backward with weight gradients; its memory against what it has to hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._real import smollm2_session
from floe_bench.harness.benchmarks._rows import random_batches
from floe_bench.harness.contracts.inputs import Batch
from floe_bench.harness.floe.decoder import base_weights, decoder_layers
from floe_bench.harness.floe.importance import sample_nll, taylor

BATCH_SIZE = {"cpu": 4, "cuda": 8}
ROWS = {"cpu": 8, "cuda": 128}
REPEATS = {"cpu": 3, "cuda": 5}


def run(bench: Bench) -> Iterator[Measurement]:
    device = bench.device.type
    for dtype in ("float32", "bfloat16"):
        model = smollm2_session(bench, model__dtype=dtype).base
        batches = random_batches(ROWS[device], BATCH_SIZE[device], model.config.vocab_size)
        weights = [weight for layer in decoder_layers(model) for weight in base_weights(layer)]
        model.requires_grad_(False)
        sides = {
            "scoring": lambda model=model, batches=batches: taylor(model, batches),
            "backward": lambda model=model, batches=batches, weights=weights: _backward(model, batches, weights),
        }
        case = f"{len(batches)} batches of {BATCH_SIZE[device]}, {dtype}"
        yield Measurement(
            what=f"time, {case}: against forward + backward",
            values=bench.alternate(sides, min(bench.repeats, REPEATS[device])),
            ratio=("scoring", "backward"),
            at_most=1.3,
            notes={"tokens": sum(int(batch["attention_mask"].sum()) for batch in batches)},
        )
        peak = bench.peak({"scoring": sides["scoring"]}, repeats=1)
        parts = _parts(model, batches, weights)
        yield Measurement(
            what=f"peak memory, {case}: against one layer's gradients + activations",
            values=peak | {"parts": [float(sum(parts.values()))]},
            unit="bytes",
            ratio=("scoring", "parts"),
            at_most=1.3,
            notes=parts | {"all_gradients_float32": 4 * sum(weight.numel() for weight in weights)},
        )


def _backward(model: Any, batches: Sequence[Batch], weights: Sequence[torch.nn.Parameter]) -> None:
    """Run forward and backward of every batch, summing the decoder layers' weight gradients. Drop them."""
    for weight in weights:
        weight.requires_grad_(True)
    for batch in batches:
        sample_nll(model, batch).sum().backward()
    for weight in weights:
        weight.requires_grad_(False).grad = None


def _parts(model: Any, batches: Sequence[Batch], weights: Sequence[torch.nn.Parameter]) -> dict[str, int]:
    """Return the bytes that scoring has to hold: a layer's gradients, all layers' inputs, a batch's activations."""
    layers = decoder_layers(model)
    entries = sum(batch["input_ids"].numel() for batch in batches) * model.config.hidden_size
    return {
        "layer_gradients_float32": 4 * max(sum(weight.numel() for weight in base_weights(layer)) for layer in layers),
        "layer_inputs": len(layers) * entries * model.dtype.itemsize,
        "activations_of_a_batch": max(_saved(model, batch, weights) for batch in batches),
    }


def _saved(model: Any, batch: Batch, weights: Sequence[torch.nn.Parameter]) -> int:
    """Return the bytes that a batch's forward saves for its backward, without the model's own weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    saved: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    for weight in weights:
        weight.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = sample_nll(model, batch).sum()
    del loss  # until here all that it saved was alive, so no address was used twice
    for weight in weights:
        weight.requires_grad_(False)
    return sum(saved.values())
