"""The pieces of work that cells share: train, measure, probe, evaluate.

Each is found by the hash of all that can change its result, or done and kept. Stages take what they
need as arguments; `run.py` knows their order.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import adapting, preflight
from harness.contracts import AdapterPlan, Cost, Row, Score, Scorer, Stage
from harness.files import digest
from harness.identity import engine_digest, provenance, source_digests, versions
from harness.nll import mean_nll, row_nll
from harness.registry import ROOT, Plugin
from harness.scoring import Evaluating
from harness.store import write_arrays, write_items
from harness.train import TrainJob, discard_checkpoints, train
from harness.workbench import Workbench

if TYPE_CHECKING:
    from peft import PeftConfig


# --- identities -----------------------------------------------------------------------------------


def _model_identity(bench: Workbench) -> dict[str, Any]:
    settings = bench.settings
    return {
        "model": bench.model_ref.identity,
        "dtype": settings.model.dtype,
        "encoding": [settings.model.prompt_format, settings.data.max_length],
        "versions": versions(),
        "engine": engine_digest(),
    }


def training_identity(bench: Workbench, rows: Sequence[Row], plan: AdapterPlan, seed: int) -> dict[str, Any]:
    """What a trained adapter or model depends on."""
    settings = bench.settings
    return _model_identity(bench) | {
        "rows": _rows_digest(rows),
        "adapts": plan.adapts,
        "adapter": _config_identity(plan.peft_config),
        "adapter_dtype": settings.adapter.dtype,
        "train": settings.train.model_dump(exclude={"checkpoint_steps"}),
        "learning_rate_ratio": plan.learning_rate_ratio,
        "seed": seed,
    }


def measure_identity(
    bench: Workbench, scorer: Scorer, parameters: dict[str, Any], rows: Sequence[Row], pilot: dict[str, Any] | None
) -> dict[str, Any]:
    """What a scorer's arrays depend on. Raises ValueError for a scorer whose source does not tell all it does."""
    name = getattr(scorer, "__qualname__", "<locals>")
    if "<" in name:
        raise ValueError(
            f"a scorer must be a function at the top of a module, not {scorer!r}: its source is its identity"
        )
    return _model_identity(bench) | {
        "scorer": f"{scorer.__module__}.{name}",
        "parameters": parameters,
        "rows": _rows_digest(rows),
        "micro_batch_size": bench.settings.train.micro_batch_size,
        "pilot": digest(pilot) if pilot else None,
        "code": source_digests(Path(inspect.getfile(scorer))),
    }


def probe_identity(
    bench: Workbench, rows: Sequence[Row], validation: Sequence[Row], plan: AdapterPlan, seed: int
) -> dict[str, Any]:
    """What a probe's validation NLL depends on."""
    return training_identity(bench, rows, plan, seed) | {
        "validation": _rows_digest(validation),
        "batch_size": bench.settings.eval.batch_size,
    }


def evaluation_identity(
    bench: Workbench, plugin: Plugin, items: Sequence[dict[str, Any]], training: dict[str, Any] | None
) -> dict[str, Any]:
    """What a score depends on; `training` is None for the base model."""
    return _model_identity(bench) | {
        "evaluation": plugin.id,
        "items": digest(list(items)),
        "batch_size": bench.settings.eval.batch_size,
        "training": digest(training) if training else None,
        "code": source_digests(plugin.file),
    }


def _rows_digest(rows: Sequence[Row]) -> str:
    return digest([vars(row) for row in rows])


def _config_identity(config: PeftConfig | None) -> dict[str, Any] | None:
    """The config's fields, and the source of the tuner where it is ours."""
    if config is None:
        return None
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    file = Path(inspect.getfile(type(config)))
    if file.is_relative_to(ROOT):
        values["code"] = {path.name: source_digests(path) for path in sorted(file.parent.glob("*.py"))}
    return values


# --- the work -------------------------------------------------------------------------------------


def run_training(
    bench: Workbench, rows: Sequence[Row], plan: AdapterPlan, seed: int, expected: dict[str, int]
) -> Stage:
    """Train what the plan says and keep it; a killed training resumes from its checkpoint.

    expected: name -> size of the parameters that the plan trains, held against the real model.
    """
    identity = training_identity(bench, rows, plan, seed)
    folder = bench.store.stage_folder("training", identity)
    found = bench.store.find("training", identity)
    if found and (folder / "adapter").is_dir():  # a copy of the results may have left the weights out
        discard_checkpoints(folder)
        return found
    with adapting.fresh(bench, plan, seed) as model:
        job = _job(bench, rows, plan, seed, folder)
        if plan.adapts == "adapter":
            preflight.check_adapter(
                model, expected, preflight.small_batch(job), bench.settings.adapter.dtype == "float32"
            )
        outcome = train(model, job)
        size = adapting.save(model, folder / "adapter", bench.settings.model.dtype)
    outcome = outcome.model_copy(update={"adapter_bytes": size})
    stage = bench.store.keep(
        "training",
        identity,
        result=outcome.model_dump(mode="json"),
        cost=Cost(seconds=outcome.seconds, tokens=outcome.tokens),
        provenance=provenance(),
    )
    discard_checkpoints(folder)
    return stage


def run_measure(
    bench: Workbench, scorer: Scorer, parameters: dict[str, Any], rows: Sequence[Row], pilot: Stage | None
) -> Stage:
    """Run a scorer over the rows, on the base model or with a trained pilot; arrays.safetensors is kept."""
    identity = measure_identity(bench, scorer, parameters, rows, pilot.identity if pilot else None)
    folder = bench.store.stage_folder("measure", identity)
    found = bench.store.find("measure", identity)
    if found and (folder / "arrays.safetensors").is_file():
        return found
    batches = bench.batches(rows)
    adapts = "adapter" if pilot else "nothing"
    bench.progress(f"measuring {scorer.__name__} on {len(rows)} rows")
    with adapting.trained(bench, adapts, _adapter_folder(bench, pilot)) as model:
        start = time.perf_counter()
        arrays = scorer(model, batches, **parameters)
        seconds = time.perf_counter() - start
    write_arrays(folder / "arrays.safetensors", arrays)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return bench.store.keep("measure", identity, cost=Cost(seconds=seconds, tokens=tokens), provenance=provenance())


def run_probe(bench: Workbench, rows: Sequence[Row], validation: Sequence[Row], plan: AdapterPlan, seed: int) -> Stage:
    """Train shortly, measure the validation NLL, and keep the number alone."""
    identity = probe_identity(bench, rows, validation, plan, seed)
    folder = bench.store.stage_folder("probe", identity)
    if found := bench.store.find("probe", identity):
        discard_checkpoints(folder)
        return found
    examples = bench.encode(validation)
    start = time.perf_counter()
    with adapting.fresh(bench, plan, seed) as model, _frozen_prefix_reused(bench, model, identity["validation"]):
        outcome = train(model, _job(bench, rows, plan, seed, folder))
        scored = time.perf_counter()
        batch_size = bench.settings.eval.batch_size
        nll = mean_nll(row_nll(model.eval(), examples, batch_size, bench.tokenizer.pad_token_id))
    seconds = outcome.seconds + time.perf_counter() - scored
    tokens = outcome.tokens + sum(len(example["input_ids"]) for example in examples)
    bench.progress(f"probe: validation NLL {nll:.4f} after {time.perf_counter() - start:.0f} s")
    stage = bench.store.keep(
        "probe",
        identity,
        result={"nll": nll, "training": outcome.model_dump(mode="json")},
        cost=Cost(seconds=seconds, tokens=tokens),
        provenance=provenance(),
    )
    discard_checkpoints(folder)
    return stage


def _frozen_prefix_reused(bench: Workbench, model: Any, judged_on: str) -> AbstractContextManager[None]:
    """Probes that are judged on the same rows share what the layers below their adapters give."""
    if bench.settings.train.gradient_checkpointing:  # it runs layers a second time, without the model around them
        return nullcontext()
    return bench.frozen_prefix.reused(model, scope=judged_on)


def run_evaluations(
    bench: Workbench, plugins: Sequence[Plugin], plan: AdapterPlan, training: Stage | None
) -> dict[str, Stage]:
    """Score the trained model (None: the base model) by each evaluation that is not done; items are kept.

    The model is put together once for all evaluations, and not at all where every one is done.
    """
    stages: dict[str, Stage] = {}
    base_scores = _base_scores(bench, plugins) if training is not None else {}
    with ExitStack() as stack:
        model = None
        for plugin in plugins:
            module = plugin.load()
            evaluating = Evaluating(bench, base_scores.get(plugin.id))
            items = module.items(evaluating)
            identity = evaluation_identity(bench, plugin, items, training.identity if training else None)
            stage = bench.store.find("evaluation", identity)
            if stage is None:
                if model is None:
                    folder = _adapter_folder(bench, training)
                    model = stack.enter_context(adapting.trained(bench, plan.adapts, folder))
                bench.progress(f"evaluating {plugin.id} on {len(items)} items")
                stage = _evaluate(bench, module, evaluating.on(model), items, identity)
            stages[plugin.id] = stage
    return stages


def _base_scores(bench: Workbench, plugins: Sequence[Plugin]) -> dict[str, Score]:
    """The base model's scores that the evaluations compare with, before any adapter is put on it."""
    needed = [plugin for plugin in plugins if getattr(plugin.load(), "NEEDS_BASE", False)]
    stages = run_evaluations(bench, needed, AdapterPlan("nothing"), None)
    return {name: Score.model_validate(stage.result) for name, stage in stages.items()}


def _evaluate(
    bench: Workbench,
    module: Any,
    evaluating: Evaluating,
    items: list[dict[str, Any]],
    identity: dict[str, Any],
) -> Stage:
    scored = module.score(evaluating, items)
    odd = {name: value for name, value in scored.score.metrics.items() if not math.isfinite(value)}
    if odd:
        raise ValueError(f"evaluation {identity['evaluation']}: metrics are not finite: {odd}")
    write_items(bench.store.stage_folder("evaluation", identity) / "items.parquet", scored.items)
    return bench.store.keep(
        "evaluation",
        identity,
        result=scored.score.model_dump(mode="json"),
        cost=Cost(seconds=scored.score.seconds, tokens=scored.score.tokens),
        provenance=provenance(),
    )


def _job(bench: Workbench, rows: Sequence[Row], plan: AdapterPlan, seed: int, folder: Path) -> TrainJob:
    settings = bench.settings
    return TrainJob(
        examples=bench.encode(rows),
        settings=settings.train,
        learning_rate=settings.train.learning_rate * plan.learning_rate_ratio,
        seed=seed,
        folder=folder,
        pad_token_id=bench.tokenizer.pad_token_id,
        bf16=settings.model.dtype == "bfloat16",
        progress=bench.progress,
    )


def _adapter_folder(bench: Workbench, training: Stage | None) -> Path | None:
    return bench.store.stage_folder("training", training.identity) / "adapter" if training else None
