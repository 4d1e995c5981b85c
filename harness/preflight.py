"""Checks before a cell spends: the adapter is the plan's, starts at the base model, learns and comes back from disk."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contracts import AdapterPlan, Batch
from harness.data import Example, collate
from harness.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftConfig

    from harness.train import TrainJob


class PreflightError(Exception):
    """The model about to be trained is not what the plan says."""


def wrap(model: Any, config: PeftConfig, float32: bool) -> Any:
    """The model with a fresh adapter; `float32` adapters on any base, else the base's dtype.

    PEFT writes what it resolved into the config, so it is given a copy.
    """
    from peft import get_peft_model

    return get_peft_model(model, copy.deepcopy(config), autocast_adapter_dtype=float32)  # pyright: ignore


def trainable_names(meta_model: Any, plan: AdapterPlan) -> dict[str, int]:
    """Parameter name -> size of all that the plan trains, from the model's shape alone.

    meta_model: the base model on the meta device; left as it was. Raises UsageError where a target or a
    layer matches no module, or r exceeds a target's smaller dimension.
    """
    if plan.adapts == "nothing":
        return {}
    if plan.adapts == "everything":
        return {name: p.numel() for name, p in meta_model.named_parameters()}
    assert plan.peft_config is not None
    _check_targets_exist(meta_model, plan.peft_config)
    try:
        model = wrap(meta_model, plan.peft_config, float32=True)
    except ValueError as error:
        raise UsageError(f"the adapter does not fit the model: {error}") from error
    try:
        _check_matches(model, plan.peft_config)
        return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    finally:
        model.unload()


def small_batch(job: TrainJob) -> Batch:
    """The last 32 tokens of two training rows: enough for the checks, and quick on any model."""
    rows: list[Example] = [
        {"input_ids": row["input_ids"][-32:], "labels": row["labels"][-32:], "truncated": True}
        for row in job.examples[:2]
    ]
    return collate(rows, job.pad_token_id)


def check_adapter(model: Any, expected: dict[str, int], batch: Batch, float32: bool) -> None:
    """Raise PreflightError unless the fresh PeftModel trains exactly `expected`, starts at the base model,
    has finite non-zero gradients after one step, and gives equal logits after save and load.

    The adapter is left as it was; so is the random state.
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


def _check_targets_exist(model: Any, config: PeftConfig) -> None:
    import torch

    targets = config.target_modules  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(targets, (set, list, tuple)):
        return
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for target in sorted(targets):
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise UsageError(f"target module '{target}' matches no linear module; the model has {', '.join(known)}")


def _check_matches(model: Any, config: PeftConfig) -> None:
    """PEFT passes over layers, targets and patterns that match nothing; we do not."""
    names = list(model.base_model.targeted_module_names)
    layers = getattr(config, "layers_to_transform", None)
    layers = [layers] if isinstance(layers, int) else layers or []
    targets = config.target_modules  # pyright: ignore[reportAttributeAccessIssue]
    for layer in layers:
        for target in targets if isinstance(targets, (set, list, tuple)) else []:
            if not any(re.search(rf"\.{layer}\.(.*\.)?{re.escape(target)}$", name) for name in names):
                raise UsageError(f"layer {layer} has no module '{target}' to adapt")
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field, None) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                raise UsageError(f"{field} '{pattern}' matches no adapted module")
    for name, module in model.base_model.model.named_modules():
        for rank in getattr(module, "r", {}).values() if isinstance(getattr(module, "r", None), dict) else []:
            limit = min(module.get_base_layer().weight.shape)
            if rank > limit:
                raise UsageError(f"r = {rank} is above {limit}, the smaller dimension of {name}")


def _logits(model: Any, batch: Batch) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def _check_gradients(model: Any, batch: Batch) -> None:
    """One step of plain gradient descent first: with B at zero, A and the router have no gradient yet."""
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
    import torch

    before = _logits(model, batch)
    with tempfile.TemporaryDirectory() as folder:
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
    """Put trainable parameters and the training mode back at the end."""
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
