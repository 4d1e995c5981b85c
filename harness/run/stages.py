"""The pieces of work that cells share: train, measure, probe, evaluate.

Each is looked for under the hash of all that can change its result. What is not found is done, and kept. A stage takes
all that it needs as arguments. `cell.py` knows the order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness.contracts.inputs import Scorer
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.record import Cost, Stage
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.data.tokens import Example
from floe_bench.harness.evaluation.nll import mean_nll, row_nll
from floe_bench.harness.files import digest, file_digests
from floe_bench.harness.model import adapters, preflight
from floe_bench.harness.registry import Plugin
from floe_bench.harness.run.evaluation_inputs import Evaluating, items_of
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.code_identity import closure, engine
from floe_bench.harness.store.folder import ARRAYS, ITEMS, WEIGHTS, write_arrays, write_items
from floe_bench.harness.store.provenance import provenance, versions
from floe_bench.harness.training.trainer import (
    CHECKPOINTS,
    NonFiniteLoss,
    TrainJob,
    broken_checkpoint,
    discard_checkpoints,
    train,
)

if TYPE_CHECKING:
    from peft import PeftConfig


# --- identities -----------------------------------------------------------------------------------


def _model_identity(session: Session) -> dict[str, Any]:
    settings = session.settings
    return {
        "model": session.model_ref.identity,
        "dtype": settings.model.dtype,
        "encoding": [settings.model.prompt_format, settings.data.max_length, vars(session.row_encoder.template)],
        "versions": versions(),
        "engine": digest(engine()),
    }


def training_identity(session: Session, rows: Sequence[Row], plan: AdapterPlan, seed: int) -> dict[str, Any]:
    """Collect what a trained adapter or model depends on."""
    settings = session.settings
    return _model_identity(session) | {
        "rows": _rows_digest(rows),
        "adapts": plan.adapts,
        "adapter": _config_identity(plan.peft_config),
        "adapter_dtype": settings.adapter.dtype,
        "train": settings.train.model_dump(exclude={"checkpoint_steps"}),
        "learning_rate_ratio": plan.learning_rate_ratio,
        "seed": seed,
    }


def measure_identity(
    session: Session, scorer: Scorer, parameters: dict[str, Any], rows: Sequence[Row], pilot: dict[str, Any] | None
) -> dict[str, Any]:
    """Collect what a scorer's arrays depend on. Raises ValueError for a scorer that is no function of a module."""
    name = getattr(scorer, "__qualname__", "<locals>")
    if "<" in name:
        raise ValueError(
            f"a scorer must be a function at the top of a module, not {scorer!r}: its source is its identity"
        )
    return _model_identity(session) | {
        "scorer": f"{scorer.__module__}.{name}",
        "parameters": parameters,
        "rows": _rows_digest(rows),
        "micro_batch_size": session.settings.train.micro_batch_size,
        "pilot": digest(pilot) if pilot else None,
        "code": closure(scorer.__module__),
    }


def probe_identity(
    session: Session, rows: Sequence[Row], validation: Sequence[Row], plan: AdapterPlan, seed: int
) -> dict[str, Any]:
    """Collect what a probe's validation NLL depends on."""
    return training_identity(session, rows, plan, seed) | {
        "validation": _rows_digest(validation),
        "batch_size": session.settings.eval.batch_size,
    }


def evaluation_identity(
    session: Session, plugin: Plugin, items: Sequence[dict[str, Any]], training: dict[str, Any] | None
) -> dict[str, Any]:
    """Collect what a score depends on. training: identity of the trained model; None for the base model."""
    return _model_identity(session) | {
        "evaluation": plugin.id,
        "items": digest(list(items)),
        "batch_size": session.settings.eval.batch_size,
        "training": digest(training) if training else None,
        "code": closure(plugin.module),
    }


def _rows_digest(rows: Sequence[Row]) -> str:
    return digest([vars(row) for row in rows])


def _config_identity(config: PeftConfig | None) -> dict[str, Any] | None:
    """The config's fields, and the code of a tuner that is not PEFT's."""
    if config is None:
        return None
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    module = type(config).__module__
    if module.partition(".")[0] != "peft":  # PEFT's own code goes by its version
        values["code"] = closure(module)
    return values


# --- the work -------------------------------------------------------------------------------------


def run_training(
    session: Session, rows: Sequence[Row], plan: AdapterPlan, seed: int, expected: dict[str, int]
) -> Stage:
    """Train what the plan says, and keep it. A training that was killed resumes from its checkpoint.

    expected: trainable parameter -> its size, which the real model must match.
    """
    identity = training_identity(session, rows, plan, seed)
    folder = session.store.stage_folder("training", identity)
    if found := session.store.find("training", identity, weights=True):
        discard_checkpoints(folder)
        return found
    with adapters.fresh(session.base_model, plan, seed, session.settings) as model:
        job = _job(session, rows, plan, seed, folder)
        if plan.adapts == "adapter":
            preflight.check_adapter(
                model,
                expected,
                preflight.small_batch(job.examples, job.pad_token_id),
                session.settings.adapter.dtype == "float32",
            )
        outcome = train(model, job)
        size = adapters.save(model, folder / WEIGHTS, session.settings.model.dtype)
    outcome = outcome.model_copy(update={"adapter_bytes": size})
    stage = session.store.keep(
        "training",
        identity,
        files=file_digests(folder, WEIGHTS),
        result=outcome.model_dump(mode="json"),
        cost=Cost(seconds=outcome.seconds, tokens=outcome.tokens),
        provenance=provenance(),
    )
    discard_checkpoints(folder)
    return stage


def run_measure(
    session: Session, scorer: Scorer, parameters: dict[str, Any], rows: Sequence[Row], pilot: Stage | None
) -> Stage:
    """Run a scorer over the rows, and keep its arrays. pilot: the trained adapter to put on first; None: base model."""
    identity = measure_identity(session, scorer, parameters, rows, pilot.identity if pilot else None)
    if found := session.store.find("measure", identity):
        return found
    batches = session.batches(rows)
    adapts = "adapter" if pilot else "nothing"
    session.progress(f"measuring {scorer.__name__} on {len(rows)} rows")
    with adapters.trained(session.base_model, adapts, _adapter_folder(session, pilot), session.settings) as model:
        start = time.perf_counter()
        arrays = scorer(model, batches, **parameters)
        seconds = time.perf_counter() - start
    files = write_arrays(session.store.stage_folder("measure", identity) / ARRAYS, arrays)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return session.store.keep(
        "measure", identity, files, cost=Cost(seconds=seconds, tokens=tokens), provenance=provenance()
    )


def run_probe(session: Session, rows: Sequence[Row], validation: Sequence[Row], plan: AdapterPlan, seed: int) -> Stage:
    """Train on few rows, measure the validation NLL, and keep the number but no weights.

    A probe that diverged is kept too, without a number: it would diverge again.
    """
    identity = probe_identity(session, rows, validation, plan, seed)
    folder = session.store.stage_folder("probe", identity)
    if found := session.store.find("probe", identity):
        discard_checkpoints(folder)
        return found
    examples = session.encode(validation)
    start = time.perf_counter()
    with adapters.fresh(session.base_model, plan, seed, session.settings) as model:
        try:
            outcome = train(model, _job(session, rows, plan, seed, folder))
        except NonFiniteLoss as error:
            result, cost = {"nll": None, "diverged": str(error)}, Cost(seconds=error.seconds, tokens=error.tokens)
        else:
            nll, judging = _judged(session, model, examples)
            odd = {} if nll is not None else {"diverged": "the validation NLL after it is not finite"}
            result = {"nll": nll, "training": outcome.model_dump(mode="json")} | odd
            cost = Cost(seconds=outcome.seconds, tokens=outcome.tokens) + judging
    said = "diverged" if result["nll"] is None else f"validation NLL {result['nll']:.4f}"
    session.progress(f"probe: {said} after {time.perf_counter() - start:.0f} s")
    stage = session.store.keep("probe", identity, result=result, cost=cost, provenance=provenance())
    discard_checkpoints(folder)
    return stage


def probe_nll(stage: Stage) -> float:
    """Return a probe's validation NLL (nats per token); inf where it diverged."""
    nll = stage.result["nll"]
    return math.inf if nll is None else nll


def _judged(session: Session, model: Any, examples: Sequence[Example]) -> tuple[float | None, Cost]:
    """Return the examples' mean NLL, None where it is not finite, and what it cost."""
    start = time.perf_counter()
    rows = row_nll(model.eval(), examples, session.settings.eval.batch_size, session.tokenizer.pad_token_id)
    nll = mean_nll(rows)
    tokens = sum(len(example["input_ids"]) for example in examples)
    return nll if math.isfinite(nll) else None, Cost(seconds=time.perf_counter() - start, tokens=tokens)


def run_evaluations(
    session: Session, plugins: Sequence[Plugin], plan: AdapterPlan, training: Stage | None
) -> dict[str, Stage]:
    """Score the trained model by each evaluation, and keep scores and items. training: None for the base model.

    The model is put together once for all evaluations, and not at all where every one is done.
    """
    stages: dict[str, Stage] = {}
    base_scores = _base_scores(session, plugins) if training is not None else {}
    with ExitStack() as stack:
        model = None
        for plugin in plugins:
            module = plugin.load()
            evaluating = Evaluating(session, base_scores.get(plugin.id))
            items = items_of(session, plugin)
            identity = evaluation_identity(session, plugin, items, training.identity if training else None)
            stage = session.store.find("evaluation", identity)
            if stage is None:
                if model is None:
                    folder = _adapter_folder(session, training)
                    model = stack.enter_context(
                        adapters.trained(session.base_model, plan.adapts, folder, session.settings)
                    )
                session.progress(f"evaluating {plugin.id} on {len(items)} items")
                stage = _evaluate(session, module, evaluating.on(model), items, identity)
            stages[plugin.id] = stage
    return stages


def _base_scores(session: Session, plugins: Sequence[Plugin]) -> dict[str, Score]:
    """Score the base model by the evaluations that compare with it, before any adapter is put on."""
    needed = [plugin for plugin in plugins if getattr(plugin.load(), "NEEDS_BASE", False)]
    stages = run_evaluations(session, needed, AdapterPlan("nothing"), None)
    return {name: Score.model_validate(stage.result) for name, stage in stages.items()}


def _evaluate(
    session: Session,
    module: Any,
    evaluating: Evaluating,
    items: list[dict[str, Any]],
    identity: dict[str, Any],
) -> Stage:
    scored = module.score(evaluating, items)
    odd = {name: value for name, value in scored.score.metrics.items() if not math.isfinite(value)}
    if odd:
        raise ValueError(f"evaluation {identity['evaluation']}: metrics are not finite: {odd}")
    files = write_items(session.store.stage_folder("evaluation", identity) / ITEMS, scored.items)
    return session.store.keep(
        "evaluation",
        identity,
        files,
        result=scored.score.model_dump(mode="json"),
        cost=Cost(seconds=scored.score.seconds, tokens=scored.score.tokens),
        provenance=provenance(),
    )


def _job(session: Session, rows: Sequence[Row], plan: AdapterPlan, seed: int, folder: Path) -> TrainJob:
    settings = session.settings
    if reason := broken_checkpoint(folder):
        session.store.set_aside(folder / CHECKPOINTS, reason)
    return TrainJob(
        examples=session.encode(rows),
        settings=settings.train,
        learning_rate=settings.train.learning_rate * plan.learning_rate_ratio,
        seed=seed,
        folder=folder,
        pad_token_id=session.tokenizer.pad_token_id,
        bf16=settings.model.dtype == "bfloat16",
        progress=session.progress,
    )


def _adapter_folder(session: Session, training: Stage | None) -> Path | None:
    return session.store.stage_folder("training", training.identity) / WEIGHTS if training else None
