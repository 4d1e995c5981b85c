"""Checks before a training: the adapter fits the plan, starts at the base model, learns, and survives saving."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floe_bench.harness.contracts.inputs import Batch
from floe_bench.harness.data.tokens import Labelled, collate
from floe_bench.harness.files import writing


class PreflightError(Exception):
    """The model to be trained does not match the plan."""


def small_batch(examples: Sequence[Labelled], pad_token_id: int) -> Batch:
    """Return a batch of the last 32 tokens of two training rows. It suffices for the checks and is quick."""
    rows: list[Labelled] = [
        {"input_ids": row["input_ids"][-32:], "labels": row["labels"][-32:]} for row in examples[:2]
    ]
    return collate(rows, pad_token_id)


def check_adapter(model: Any, expected: dict[str, int], batch: Batch, float32: bool) -> None:
    """Check a fresh PeftModel on a batch, then restore the adapter and the random state.

    Raises:
        PreflightError: unless it trains exactly the parameters `expected`, starts at the base model, has finite
            non-zero gradients after one step, and gives equal logits after save and load.
    """
    import torch

    found = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    if found != expected:
        odd = sorted(found.keys() ^ expected.keys())
        raise PreflightError(f"the trainable parameters are not the plan's: {odd[:4]}")
    batch = {key: value.to(model.device) for key, value in batch.items()}
    with torch.random.fork_rng(), _restored(model):
        model.eval()
        with model.disable_adapter():
            base = _logits(model, batch)
        if not torch.equal(_logits(model, batch), base):
            raise PreflightError("the fresh adapter changes the base model's logits")
        _check_gradients(model, batch)
        _check_round_trip(model, batch, float32)


def _logits(model: Any, batch: Batch) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def _check_gradients(model: Any, batch: Batch) -> None:
    """Check the gradients after one step of gradient descent. Before it B is zero, so A and the router have none."""
    import torch

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for step in range(2):
        model(**batch, use_cache=False).loss.backward()
        if step == 0:
            with torch.no_grad():
                for p in parameters.values():
                    if p.grad is not None:
                        p -= 0.1 * p.grad / p.grad.norm().clamp_min(1e-12)
                        p.grad = None
    for name, p in parameters.items():
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.any():
            raise PreflightError(f"after one step {name} has no finite non-zero gradient")


def _check_round_trip(model: Any, batch: Batch, float32: bool) -> None:
    """Raise PreflightError unless the adapter gives equal logits after save and load; StorageError for a full disk."""
    import torch

    before = _logits(model, batch)
    with writing(Path("the temporary folder (TMPDIR)")), tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.load_adapter(Path(folder), "reloaded", autocast_adapter_dtype=float32)
    model.set_adapter("reloaded")
    try:
        if not torch.equal(_logits(model, batch), before):
            raise PreflightError("the adapter gives other logits after save and load")
    finally:
        model.set_adapter("default")
        model.delete_adapter("reloaded")


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Restore trainable parameters and the training mode on exit. Drop gradients."""
    import torch

    kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    training = model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in kept:
                    p.copy_(kept[name])
                    p.grad = None
        model.train(training)
