"""`floe-bench show`: print a cell's record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from floe_bench.harness.cli.cell_names import MISSING, find_record
from floe_bench.harness.cli.grid import add_profile
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_profile(sub)
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub.add_argument("cell", metavar="CELL", help='part of its label, "dolly / lora / seed 0", or record file')


def command(options: argparse.Namespace) -> int:
    """Print the record, and return 0."""
    profiles.load(options.profile)
    store = Store(options.results, options.profile)
    record = find_record(store, options.cell)
    name = store.record_path(record.cell, record.key).name
    print(record.model_dump_json(indent=2) if options.json else to_text(record, name))
    return 0


def to_text(record: Record, name: str) -> str:
    """The record for people: what was decided, what it cost, what it scored. `name`: its file's."""
    made = record.provenance
    git = made.get("git") or {}
    lines = [
        f"{record.cell.label}: {record.status}",
        f"  record     {name}",
        f"  made       {made['time']}, commit {str(git.get('commit', 'unknown'))[:12]}"
        + (" with uncommitted changes" if git.get("dirty") else ""),
        f"  model      {record.settings.model.id}, {made.get('model', record.identity.get('model'))}",
        f"  hardware   {_pairs(made.get('hardware', {}))}",
        f"  data       {_pairs({k: v for k, v in record.data if not isinstance(v, dict)})}",
    ]
    if record.status == "failed":
        return "\n".join([*lines, "", (record.error or "").rstrip()])
    lines += ["", *_plan_lines(record), "", *_training_lines(record), "", "scores"]
    for evaluation, score in record.scores.items():
        chance = f", chance {score.chance:.0%}" if score.chance is not None else ""
        lines.append(f"  {evaluation}: {score.n_items} items{chance}, {score.tokens:,} tokens, {score.seconds:.1f} s")
        shown = {k: v for k, v in score.metrics.items() if not k.startswith("acc_subject_")}
        lines += [f"    {metric:<18} {value:.5g}" for metric, value in shown.items()]
    lines += ["", "stages"]
    lines += [f"  planning: {stage}" for stage in record.stages.planning]
    if record.stages.training:
        lines.append(f"  training: {record.stages.training}")
    lines += [f"  evaluation {name}: {stage}" for name, stage in record.stages.evaluations.items()]
    return "\n".join(lines)


def _plan_lines(record: Record) -> list[str]:
    plan = record.plan
    share = plan.trainable_parameters / plan.base_parameters
    lines = [
        "plan",
        f"  trains {plan.adapts}: layers {list(plan.layers)}, r {plan.r if plan.r is not None else MISSING}, "
        f"{plan.trainable_parameters:,} parameters ({share:.3%})",
        f"  planning: {record.planning_cost.seconds:.1f} s, {record.planning_cost.tokens:,} tokens",
    ]
    lines += [f"    {kind}: {_pairs(vars(cost))}" for kind, cost in plan.cost_by_kind.items()]
    lines += [f"  {name}: {_short(value)}" for name, value in (plan.scores | plan.details).items()]
    for name, found in (("selected", plan.selected), ("matched", plan.matched)):
        if found:
            lines.append(f"  {name}: {_pairs(vars(found))}")
    if plan.searched:
        trials = plan.searched.trials
        lowest, number = min((trial.value, trial.number) for trial in trials if trial.value is not None)
        diverged = sorted({trial.r for trial in trials if trial.value is None})
        lines.append(
            f"  searched: {len(trials)} trials, {plan.searched.unique_trainings} trained, "
            f"lowest NLL {lowest:.4g} in trial {number}" + (f"; ranks that diverged: {diverged}" if diverged else "")
        )
    return lines


def _training_lines(record: Record) -> list[str]:
    training = record.training
    if training is None:
        return ["training", "  none"]
    return [
        "training",
        f"  {training.optimizer_steps} steps, {training.tokens:,} tokens, {training.seconds:.1f} s "
        f"({training.tokens_per_second:,.0f} tokens/s), learning rate {training.learning_rate:g}",
        f"  loss {training.loss_curve[0]:.4f} -> {training.loss_curve[-1]:.4f}"
        if training.loss_curve
        else "  no loss kept",
        f"  peak {training.peak_bytes / 1e6:,.1f} MB ({training.peak_kind}), adapter {training.adapter_bytes:,} bytes, "
        f"{training.truncated_rows} rows truncated, {_counted(training.control_text_rows)} with a control token's name",
    ]


def _counted(n: int | None) -> str:
    return MISSING if n is None else str(n)


def _short(value: Any) -> str:
    """Numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items()) or MISSING
