"""Unequal budgets: each quantity planted alone."""

import pytest

from floe_bench.harness.contracts.record import DataFacts
from floe_bench.harness.report.checks import unequal_budgets

from .healthy import fired, training

LABEL = "dolly / floe / seed 0"


def differs(run, **changes):
    run.change(LABEL, **changes)
    return [finding.message for finding in fired(unequal_budgets, run)]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tokens": 8000}, "training tokens"),
        ({"optimizer_steps": 80}, "optimiser steps"),
        ({"learning_rate": 2e-2}, "base learning rates"),
    ],
)
def test_fires_on_training(changes, name, run):
    (message,) = differs(run, training=training(**changes))
    assert message.startswith(f"{name} differ in dolly, seed 0: lora, other_search:") and "floe:" in message


def test_fires_on_data(run):
    (message,) = differs(run, data=DataFacts(digest="another"))
    assert message.startswith("training data") and "another" in message


def test_fires_on_the_search_and_counts_the_other_groups(run):
    for seed in range(2):
        label = f"dolly / floe / seed {seed}"
        plan = run.record(label).plan
        run.change(
            label, plan=plan.model_copy(update={"searched": plan.searched.model_copy(update={"unique_trainings": 3})})
        )
    (finding,) = fired(unequal_budgets, run)
    assert "floe: 3; other_search: 10" in finding.message and finding.message.endswith("where they differ: 1)")
    assert len(finding.cells) == 4


def test_a_stated_learning_rate_ratio_is_no_difference(run):
    plan = run.record(LABEL).plan.model_copy(update={"learning_rate_ratio": 0.1})
    assert differs(run, plan=plan, training=training(learning_rate=1e-2 * 0.1)) == []


def test_cells_that_vary_settings_are_compared_among_themselves(run):
    label = run.cells[-1].label
    run.change(label, training=training(tokens=9))
    assert fired(unequal_budgets, run) == []
