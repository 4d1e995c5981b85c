"""Records and stages of earlier schema versions, one step a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]


def upgraded(content: Content, version: int) -> Content | None:
    """The JSON of a record or stage in the form of `version`; None where no step leads there."""
    while content["schema_version"] != version:
        step = STEPS.get(content["schema_version"])
        if step is None:
            return None
        content = step(content) | {"schema_version": content["schema_version"] + 1}
    return content


def _from_1(content: Content) -> Content:
    """Version 1 had no selection.taylor_budget_factor: c was K/L where taylor_budget was None."""
    if "settings" not in content:  # a stage
        return content
    settings = content["settings"]
    selection = {"taylor_budget_factor": 1.0} | settings["selection"]
    return content | {"settings": settings | {"selection": selection}}


STEPS: dict[int, Callable[[Content], Content]] = {1: _from_1}
