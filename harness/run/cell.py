"""One cell, from its name to its record: the only file that knows the order.

plan -> train -> evaluate -> record
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.record import DataFacts, Overlap, PlanFacts, Record, StagesUsed, TrainOutcome
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.data.contamination import NGRAM, TEXT_FIELDS, overlapping
from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import digest
from floe_bench.harness.registry import MethodRef, find, parse_method
from floe_bench.harness.run import stages
from floe_bench.harness.run.evaluation_inputs import items_of
from floe_bench.harness.run.method_inputs import Account, Inputs
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.provenance import provenance


def run_cell(session: Session, cell: Cell, identity: dict[str, Any]) -> Record:
    """Do what is not done of the cell, and write its record, ok or failed.

    Raises UsageError for input that the user can mend; any other error becomes a failed record.
    """
    steps = _Steps(session, cell, parse_method(cell.method), identity)
    content: dict[str, Any]
    try:
        content = steps.run() | {"status": "ok"}
    except UsageError:
        raise
    except Exception:  # whatever went wrong in this cell, the others go on; the record keeps all of it
        content = {"status": "failed", "error": traceback.format_exc()}
    record = Record(
        cell=cell,
        profile=session.store.folder.name,
        key=digest(identity),
        identity=identity,
        settings=session.settings.without_paths(),
        provenance=provenance() | {"model": session.model_ref.identity},
        data=_data_facts(session, cell, content.get("scores", {})),
        **content,
    )
    session.store.write(record)
    return record


@dataclass
class _Steps:
    session: Session
    cell: Cell
    method: MethodRef
    identity: dict[str, Any]

    def run(self) -> dict[str, Any]:
        """The record's content."""
        inputs = Inputs(self.session, self.cell, _planning_identity(self.identity))
        plan = self.method.plugin.load().plan(inputs, self.method.options)
        expected = self.session.trainable(plan)
        training = None
        if plan.adapts != "nothing":
            rows = self.session.mix(self.cell.mix).train
            training = stages.run_training(self.session, rows, plan, self.cell.seed, expected)
        evals = [find("evaluation", name) for name in self.session.settings.eval.evals]
        scored = stages.run_evaluations(self.session, evals, plan, training)
        return {
            "plan": plan_facts(self.session, plan, expected, inputs.account),
            "planning_cost": inputs.account.cost,
            "stages": StagesUsed(
                planning=tuple(sorted(inputs.account.stages)),
                training=training.folder if training else None,
                evaluations={name: stage.folder for name, stage in scored.items()},
            ),
            "training": TrainOutcome.model_validate(training.result) if training else None,
            "scores": {name: Score.model_validate(stage.result) for name, stage in scored.items()},
        }


def _planning_identity(identity: dict[str, Any]) -> dict[str, Any]:
    """The cell's identity without what only its evaluation depends on."""
    settings = {key: value for key, value in identity["settings"].items() if key != "eval"}
    return {key: value for key, value in identity.items() if key not in ("evaluations", "items")} | {
        "settings": settings
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


def _data_facts(session: Session, cell: Cell, scores: dict[str, Score]) -> DataFacts:
    mix = session.mix(cell.mix)
    return DataFacts(
        source=session.source.kind,
        digest=mix.digest,
        counts=mix.counts,
        train_rows=len(mix.train),
        validation_rows=len(mix.validation),
        revisions=session.source.revisions,
        overlap=_overlap(session, cell, scores),
    )


def _overlap(session: Session, cell: Cell, scores: dict[str, Score]) -> dict[str, Overlap]:
    """Per evaluation, the lines of its items that share an n-gram of words with the mix's training rows."""
    found = {}
    for name, score in scores.items():
        key = f"{name} {cell.mix}"
        if key not in session.overlaps:
            scored = [
                item for item in items_of(session, find("evaluation", name)) if item.get("split", "test") == "test"
            ]
            # An evaluation's lines may be other than its items (a router's are modules), and items may hold no text.
            if len(scored) != score.n_items or not all(set(TEXT_FIELDS) & set(item) for item in scored):
                continue
            lines = overlapping(scored, session.mix(cell.mix).train)
            session.overlaps[key] = Overlap(n=NGRAM, items=tuple(lines), of=len(scored))
        found[name] = session.overlaps[key]
    return found
