"""Run one cell: plan, train, evaluate, record. Only this file knows the order."""

from __future__ import annotations

import traceback
from typing import Any

from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.record import DataFacts, Overlap, PlanFacts, Record, StagesUsed, TrainOutcome
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.data.contamination import NGRAM, TEXT_FIELDS, overlapping
from floe_bench.harness.errors import StorageError, UsageError
from floe_bench.harness.run import stages
from floe_bench.harness.run.evaluation_inputs import items_of
from floe_bench.harness.run.method_inputs import Account, Inputs
from floe_bench.harness.run.resolved import ResolvedCell
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.provenance import provenance


def run_cell(resolved: ResolvedCell) -> Record:
    """Do what is not done of the cell, and write its record, ok or failed.

    Raises UsageError for input that the user can mend, StorageError where the disk refuses. Any other error becomes a
    failed record, and so does content that a record cannot hold.
    """
    store = resolved.session.store
    try:
        record = _record(resolved, _done(resolved) | {"status": "ok"})
        store.write(record)
    except (UsageError, StorageError):
        raise
    except Exception:  # whatever it is: the other cells go on, and the record keeps the traceback
        record = _record(resolved, {"status": "failed", "error": traceback.format_exc()})
        store.write(record)
    return record


def _record(resolved: ResolvedCell, content: dict[str, Any]) -> Record:
    """Return the cell's record. content: its status, and what was done or the error."""
    session = resolved.session
    return Record(
        cell=resolved.cell,
        profile=session.store.folder.name,
        key=resolved.key,
        identity=resolved.identity,
        settings=session.settings.without_paths(),
        provenance=provenance() | {"model": session.model_ref.identity},
        data=_data_facts(resolved, content.get("scores", {})),
        **content,
    )


def _done(resolved: ResolvedCell) -> dict[str, Any]:
    """Plan, train and evaluate the cell, and return what its record says of that."""
    session, cell, method = resolved.session, resolved.cell, resolved.method
    inputs = Inputs(resolved)
    plan = method.plugin.load().plan(inputs, method.options)
    expected = session.trainable(plan)
    training = None
    if plan.adapts != "nothing":
        training = stages.run_training(session, session.mix(cell.mix).train, plan, cell.seed, expected)
    scored = stages.run_evaluations(session, resolved.evaluations, plan, training)
    return {
        "plan": plan_facts(session, plan, expected, inputs.account),
        "planning_cost": inputs.account.cost,
        "stages": StagesUsed(
            planning=tuple(sorted(inputs.account.stages)),
            training=training.folder if training else None,
            evaluations={name: stage.folder for name, stage in scored.items()},
        ),
        "training": TrainOutcome.model_validate(training.result) if training else None,
        "scores": {name: Score.model_validate(stage.result) for name, stage in scored.items()},
    }


def plan_facts(session: Session, plan: AdapterPlan, expected: dict[str, int], account: Account) -> PlanFacts:
    """Record what is trained, on which layers, at which rank. expected: trainable parameter -> its size."""
    config = plan.peft_config
    every = tuple(range(session.n_layers))
    adapted = tuple(getattr(config, "layers_to_transform", None) or every)
    return PlanFacts(
        adapts=plan.adapts,
        peft_config=_json_config(config) if config else None,
        layers={"adapter": adapted, "everything": every, "nothing": ()}[plan.adapts],
        n_layers=session.n_layers,
        k=plan.k,
        r=getattr(config, "r", None),
        trainable_parameters=sum(expected.values()),
        base_parameters=session.base_parameters,
        learning_rate_ratio=plan.learning_rate_ratio,
        scores=plan.scores,
        selected=plan.selected,
        searched=plan.searched,
        matched=plan.matched,
        details=plan.details,
        cost_by_kind=account.by_kind,
    )


def _json_config(config: Any) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


def _data_facts(resolved: ResolvedCell, scores: dict[str, Score]) -> DataFacts:
    source, mix = resolved.session.source, resolved.session.mix(resolved.cell.mix)
    return DataFacts(
        source=source.kind,
        digest=mix.digest,
        counts=mix.counts,
        train_rows=len(mix.train),
        validation_rows=len(mix.validation),
        revisions=source.revisions,
        overlap=_overlap(resolved, scores),
    )


def _overlap(resolved: ResolvedCell, scores: dict[str, Score]) -> dict[str, Overlap]:
    """Find, per evaluation, the items that share an n-gram of words with the mix's training rows."""
    session, mix = resolved.session, resolved.cell.mix
    found = {}
    for evaluation in resolved.evaluations:
        if evaluation.id not in scores:
            continue
        key = f"{evaluation.id} {mix}"
        if key not in session.overlaps:
            scored = [item for item in items_of(session, evaluation) if item.get("split", "test") == "test"]
            # An evaluation's lines may be other than its items (a router's are modules), and items may hold no text.
            of_items = len(scored) == scores[evaluation.id].n_items
            if not of_items or not all(set(TEXT_FIELDS) & set(item) for item in scored):
                continue
            lines = overlapping(scored, session.mix(mix).train)
            session.overlaps[key] = Overlap(n=NGRAM, items=tuple(lines), of=len(scored))
        found[evaluation.id] = session.overlaps[key]
    return found
