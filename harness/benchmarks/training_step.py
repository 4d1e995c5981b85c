"""A training step: MoE-LoRA on every layer against the loop over experts, FLoE's layers against the FLOP bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._loop import loop_over_experts
from floe_bench.harness.benchmarks._real import FLOE_LAYERS, adapted, smollm2_session
from floe_bench.harness.data.tokens import Example, collate
from floe_bench.harness.floe.labels import at_labels
from floe_bench.harness.run.session import Session
from floe_bench.harness.training.trainer import TrainJob, train

STEPS = 2
SLACK = 1.15


def run(bench: Bench) -> Iterator[Measurement]:
    shared = smollm2_session(bench, data__max_length=256, data__train_rows=64, data__validation_rows=8)
    batch_size = shared.settings.train.batch_size
    examples = shared.encode(shared.mix("dolly").train)[: STEPS * batch_size]
    models = {"loop": adapted(shared), "hydralora": adapted(shared), "floe": adapted(shared, FLOE_LAYERS)}
    loop_over_experts(models["loop"])
    facts = _facts(shared, models, examples)
    seconds = bench.alternate({name: _steps(bench, shared, model, examples) for name, model in models.items()})
    case = f"{STEPS} steps of {batch_size} rows"
    yield Measurement(
        what=f"{case}, every layer: loop against stacked experts",
        values=seconds,
        ratio=("loop", "hydralora"),
        at_least=1.5,
        notes=facts,
    )
    yield Measurement(
        what=f"{case}: loop on every layer against {len(FLOE_LAYERS)} layers",
        values=seconds,
        ratio=("loop", "floe"),
        at_least=2.0,
    )
    bound = facts["flops"]["floe"] / facts["flops"]["hydralora"]
    yield Measurement(
        what=f"{case}: {len(FLOE_LAYERS)} layers against every layer, whose FLOPs are in the ratio {bound:.3f}",
        values=seconds,
        ratio=("floe", "hydralora"),
        at_most=SLACK * bound,
    )


def _facts(shared: Session, models: dict[str, Any], examples: list[Example]) -> dict[str, Any]:
    return {
        "adapted_layers": list(FLOE_LAYERS),
        "tokens": sum(len(example["input_ids"]) for example in examples),
        "labelled": sum(label != -100 for example in examples for label in example["labels"][1:]),
        "flops": {name: _flops(model, examples, shared.tokenizer.pad_token_id) for name, model in models.items()},
    }


def _flops(model: Any, examples: list[Example], pad_token_id: int) -> int:
    """Count FLOPs of the matrix products and attention of one forward and backward over the rows, as executed."""
    batch = {key: value.to(model.device) for key, value in collate(examples, pad_token_id).items()}
    mapping = {torch.ops.aten.addmm_: _addmm_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**batch, **at_labels(batch), use_cache=False).loss
        loss.backward()
    model.zero_grad()
    return counter.get_total_flops()


def _addmm_flops(_: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """Count 2 m k n of (m, k) times (k, n). The in-place form is not among PyTorch's own counts."""
    return 2 * a[0] * a[1] * b[1]


def _steps(bench: Bench, shared: Session, model: Any, examples: list[Example]) -> Callable[[], None]:
    def step() -> None:
        job = TrainJob(
            examples=examples,
            settings=shared.settings.train,
            learning_rate=shared.settings.train.learning_rate,
            seed=0,
            folder=bench.folder,
            pad_token_id=shared.tokenizer.pad_token_id,
            bf16=True,
            progress=bench.progress,
        )
        train(model, job)

    return step
