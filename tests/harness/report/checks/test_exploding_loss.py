"""Exploding loss: planted in a training, a pilot and a probe."""

import pytest

from floe_bench.harness.report.checks import exploding_loss

from .healthy import PILOT_CURVE, fired, stage, training

LABEL = "dolly / floe / seed 0"
SPIKE = [2.0, 1.9, 8.0, 1.8]


def test_fires_on_a_training(run):
    run.change(LABEL, training=training(loss_curve=SPIKE))
    (finding,) = fired(exploding_loss, run)
    assert "rises from 2 to 8 at step 3 of 4" in finding.message and finding.cells == (LABEL,)


def test_fires_on_a_probe_that_diverged(run):
    said = "the loss is nan at optimiser step 2"
    run.used[LABEL] = [stage("probe", "q", nll=None, diverged=said)]
    (finding,) = fired(exploding_loss, run)
    assert finding.message == f"probe q: {said}" and finding.cells == (LABEL,)


def test_fires_once_on_a_shared_pilot_and_on_a_probe(run):
    run.used[LABEL] = [stage("training", "p", loss_curve=SPIKE)]
    run.used["dolly / other_search / seed 0"] = [
        stage("training", "p", loss_curve=SPIKE), stage("probe", "q", nll=2.0, training={"loss_curve": SPIKE}),
    ]  # fmt: skip
    findings = fired(exploding_loss, run)
    assert [finding.message[:7] for finding in findings] == ["pilot p", "probe q"]
    assert [len(finding.cells) for finding in findings] == [2, 1]


@pytest.mark.parametrize("curve", [PILOT_CURVE, [1.0, 2.9, 1.0], []])
def test_is_silent_on_noisy_batches(curve, run):
    run.change(LABEL, training=training(loss_curve=curve))
    assert fired(exploding_loss, run) == []
