"""Mixed provenance: planted in one record, and in a stage behind one."""

import pytest

from floe_bench.harness.report.checks import mixed_provenance

from .healthy import PROVENANCE, fired, stage

LABEL = "dolly / floe / seed 0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": PROVENANCE["versions"] | {"torch": "2.12.0"}}, "versions of torch differ: 2.13.0 in 11"),
        ({"versions": {"torch": "2.13.0"}}, "versions of peft differ"),
        ({"hardware": PROVENANCE["hardware"] | {"accelerator": "H100"}}, "hardware (accelerator) differ: none in 11"),
        ({"git": {"commit": "beef", "dirty": False}}, "commits differ: c0ffee in 11 cells; beef in 1 cells"),
        ({"git": None}, "commits differ"),
        ({"git": {"commit": "c0ffee", "dirty": True}}, "1 of 12 cells were run with uncommitted changes"),
    ],
)
def test_fires_and_names_the_odd_one_out(changes, message, run):
    run.used.clear()
    run.change(LABEL, provenance=PROVENANCE | changes)
    (finding,) = fired(mixed_provenance, run)
    assert message in finding.message and finding.cells == (LABEL,)


def test_fires_on_a_stage_from_another_machine(run):
    pilot = stage("training", "p", loss_curve=[]).model_copy(
        update={"provenance": PROVENANCE | {"hardware": PROVENANCE["hardware"] | {"processor": "Q"}}}
    )
    run.used[LABEL] = [pilot]
    (finding,) = fired(mixed_provenance, run)
    assert "hardware (processor)" in finding.message and finding.cells == (LABEL,)


def test_time_and_installed_memory_are_no_difference(run):
    hardware = PROVENANCE["hardware"] | {"memory_gib": 23.4}
    run.change(LABEL, provenance=PROVENANCE | {"time": "2027-01-01", "hardware": hardware})
    assert fired(mixed_provenance, run) == []
