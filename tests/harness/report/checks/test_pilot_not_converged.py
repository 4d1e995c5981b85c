"""Pilot not converged: planted in its loss curve."""

import numpy as np
import pytest

from floe_bench.harness.report.checks import pilot_not_converged

from .healthy import fired, stage

NOISE = np.random.default_rng(0).normal(0, 0.05, 200)
STEPS = np.arange(200)


def faults(run, curve) -> list[str]:
    """What is said of a pilot that four cells share."""
    labels = list(run.used)
    for label in labels:
        run.used[label] = [stage("training", "shared", loss_curve=list(curve))]
    findings = fired(pilot_not_converged, run)
    assert all(set(finding.cells) == set(labels) for finding in findings)
    return [finding.message for finding in findings]


@pytest.mark.parametrize(
    ("curve", "fault"),
    [
        (2.0 + NOISE, "did not fall"),
        (2.0 + 0.01 * STEPS + NOISE, "did not fall"),
        ([2.0] * 8, "did not fall"),
        (3.0 - 0.005 * STEPS + NOISE, "still falling"),
        (3.0 - (STEPS / 200) ** 3 + NOISE, "still falling"),
        ([3.0, 2.0], "2 optimiser steps"),
        ([], "0 optimiser steps"),
    ],
)
def test_fires_once_for_a_shared_pilot(curve, fault, run):
    (message,) = faults(run, curve)
    assert fault in message


@pytest.mark.parametrize("curve", [2 + np.exp(-STEPS / 30) + NOISE, 2 + 2 / (1 + STEPS / 10) + NOISE])
def test_is_silent_on_a_curve_that_levels_off(curve, run):
    assert faults(run, curve) == []


def test_says_how_much_of_the_fall_came_last(run):
    (message,) = faults(run, [4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0])
    assert "1.000 of its fall of 3.000 nats" in message
