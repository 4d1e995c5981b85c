"""Bring records and stages of earlier schema versions up to date, one version a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from floe_bench.harness.contracts.plan import Searched, Selected
from floe_bench.harness.floe.selection import max_layers

Content = dict[str, Any]


def upgraded(content: Content, version: int) -> Content | None:
    """Return the JSON of a record or stage in the form of `version`; None where no step leads there."""
    while content["schema_version"] != version:
        step = STEPS.get(content["schema_version"])
        if step is None:
            return None
        content = step(content) | {"schema_version": content["schema_version"] + 1}
    return content


def _from_1(content: Content) -> Content:
    """Add selection.taylor_budget_factor. In version 1, c was K/L where taylor_budget was None."""
    if "settings" not in content:  # a stage
        return content
    settings = content["settings"]
    selection = {"taylor_budget_factor": 1.0} | settings["selection"]
    return content | {"settings": settings | {"selection": selection}}


def _from_2(content: Content) -> Content:
    """Type a plan's facts and stages. Version 2 kept the facts in details, without L and K, and stages by role."""
    if "settings" not in content:  # a stage
        return content
    stages = content["stages"]
    evaluations = {role.partition(":")[2]: name for role, name in stages.items() if role.startswith("evaluation:")}
    used = {"planning": stages.get("planning", []), "training": stages.get("training"), "evaluations": evaluations}
    return content | {"plan": _plan_from_2(content) if content["plan"] else {}, "stages": used}


def _plan_from_2(content: Content) -> Content:
    plan, settings = dict(content["plan"]), content["settings"]
    details = dict(plan.pop("details"))
    n_layers = settings["model"]["config"]["num_hidden_layers"]
    plan |= {"n_layers": n_layers, "matched": details.pop("match", None)}
    if "trials" in details:
        plan["searched"] = {name: details.pop(name) for name in Searched.model_fields}
    if "objective" in details:
        plan["selected"] = {name: details.pop(name) for name in Selected.model_fields}
    plan["scores"] = {
        "fisher" if name == "fisher_diagonal" else name: details.pop(name)
        for name, value in list(details.items())
        if isinstance(value, list) and all(isinstance(number, (int, float)) for number in value) and name != "experts"
    }
    only_scores = plan["adapts"] == "nothing" and plan["scores"]
    fewer = plan["adapts"] == "adapter" and len(plan["layers"]) < n_layers
    chose = "selected" in plan or only_scores or fewer
    k = max_layers(settings["selection"]["layer_fraction"], n_layers) if chose else None
    return plan | {"k": k, "details": details}


def _from_3(content: Content) -> Content:
    """Say that there is no manifest of a stage's files, which came with version 4."""
    return content if "settings" in content else content | {"files": None}


STEPS: dict[int, Callable[[Content], Content]] = {1: _from_1, 2: _from_2, 3: _from_3}
