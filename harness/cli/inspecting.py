"""One cell looked at: which record a name means, what it says, and why the cell is or is not done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.files import digest
from floe_bench.harness.store.folder import Store

MISSING = "(none)"
SHOWN = 6
"""Candidates or differences that one message names; more are counted."""


# --- which cell ---------------------------------------------------------------------------------------


def find_record(store: Store, text: str) -> Record:
    """The record that `text` names: any part of its file name or label; of one cell's several the newest.

    Raises UsageError where no record, or those of several cells, match.
    """
    records = {store.record_path(record.cell, record.key).stem: record for record in store.records()}
    if not records:
        raise UsageError(f"{store.folder / 'records'} holds no record: run the profile first")
    named = {f"{record.cell.label}\n{stem}": record for stem, record in records.items()}
    found = _matching(text, named)
    if not found:
        raise unknown("cell", text, {record.cell.label for record in records.values()})
    _refuse_several(text, [record.cell for record in found])
    return max(found, key=lambda record: record.provenance["time"])


def find_cell(cells: Sequence[Cell], text: str) -> Cell:
    """The cell of a grid whose label contains `text`. Raises UsageError where none or several do."""
    found = _matching(text, {cell.label: cell for cell in cells})
    if not found:
        raise unknown("cell", text, {cell.label for cell in cells})
    _refuse_several(text, found)
    return found[0]


def _matching(text: str, named: Mapping[str, Any]) -> list[Any]:
    """Those with a line that is `text`, or else those that contain it; case does not count."""
    wanted = text.casefold().strip()
    whole = [value for name, value in named.items() if wanted in name.casefold().split("\n")]
    return whole or [value for name, value in named.items() if wanted in name.casefold()]


def _refuse_several(text: str, cells: Sequence[Cell]) -> None:
    labels = sorted({cell.label for cell in cells})
    if len(labels) > 1:
        raise UsageError(f"'{text}' may mean {len(labels)} cells: {_listed(labels, ' or ')}; write more of it")


# --- show ---------------------------------------------------------------------------------------------


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
        best_first = min(trials, key=lambda trial: trial.value)
        lines.append(
            f"  searched: {len(trials)} trials, {plan.searched.unique_trainings} trained, "
            f"lowest NLL {best_first.value:.4g} in trial {best_first.number}"
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
        f"{training.truncated_rows} rows truncated",
    ]


def _short(value: Any) -> str:
    """Numbers to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in values.items()) or MISSING


# --- why ----------------------------------------------------------------------------------------------


def why(store: Store, cell: Cell, identity: dict[str, Any]) -> str:
    """Whether the cell of that identity (`keys.cell_identity`, now) is done, and if not, what differs from its
    nearest record, component by component.
    """
    key = digest(identity)
    record = store.record(cell, key)
    if record is not None:
        name = store.record_path(cell, key).name
        if record.status == "failed":
            reason = (record.error or "").strip().splitlines()[-1:]
            return f"{cell.label}: failed, and tried again by the next run: {''.join(reason)} ({name})"
        return f"{cell.label}: done ({name})"
    others = [record for record in store.records() if record.cell == cell]
    if not others:
        return f"{cell.label}: to do: no run of it was ever recorded in {store.folder / 'records'}"
    gaps = {record.key: differences(record.identity, identity) for record in others}
    # Of equally near records the newest, as file names say nothing of age.
    nearest = max(others, key=lambda record: (-len(gaps[record.key]), record.provenance["time"]))
    name = store.record_path(cell, nearest.key).name
    return f"{cell.label}: to do: {_listed(gaps[nearest.key], '; ')} (since {name}, {nearest.status})"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two identities, one phrase each: settings and versions by value, code and data by name."""
    old, new = _flat(before), _flat(now)
    changed = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    phrases = [_phrase(path, old.get(path, MISSING), new.get(path, MISSING)) for path in changed]
    return list(dict.fromkeys(phrases))


def _phrase(path: tuple[str, ...], old: Any, new: Any) -> str:
    component, *rest = path
    name = ".".join(rest)
    if component in ("settings", "versions", "cell"):
        return f"{component}.{name} {_value(old)} -> {_value(new)}"
    if component in ("method", "mix"):
        return f"code of {name} {_changed(old, new)}"
    if component in ("evaluations", "other_methods"):
        return f"code of {rest[-1]} {_changed(old, new)}"
    if component == "engine":
        return f"code of {name or 'the engine'} {_changed(old, new)}"
    if component == "data":
        return f"rows of mix '{name}' {_changed(old, new)}"
    if component == "items":
        return f"items of evaluation '{name}' {_changed(old, new)}"
    if component == "text":
        return "plain text changed"
    return f"{'.'.join(path)} {_value(old)} -> {_value(new)}"


def _changed(old: Any, new: Any) -> str:
    return "is new" if old == MISSING else "is gone" if new == MISSING else "changed"


def _value(value: Any) -> str:
    return value if value == MISSING else json.dumps(value)


def _flat(values: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path -> value; keys may hold dots, as module names do."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        flat |= _flat(value, (*prefix, key)) if isinstance(value, Mapping) else {(*prefix, key): value}
    return flat


def _listed(parts: Sequence[str], between: str) -> str:
    more = len(parts) - SHOWN
    return between.join(parts[:SHOWN]) + (f" and {more} more" if more > 0 else "")
