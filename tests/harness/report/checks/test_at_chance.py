"""Score at chance: planted around the Wilson interval's limit, worked out by its formula."""

import math

from floe_bench.harness.report.checks import at_chance

from .healthy import fired, score

LABEL = "dolly / floe / seed 0"


def wilson_low(right: int, n: int) -> float:
    z, p = 1.959964, right / n
    return (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)


def test_fires_exactly_where_the_interval_covers_chance(run):
    lows = {right: wilson_low(right, 100) for right in range(25, 45)}
    assert min(lows.values()) < 0.25 < max(lows.values())
    for right, low in lows.items():
        run.change(LABEL, scores={"mmlu_0shot": score(right / 100, 100)})
        assert bool(fired(at_chance, run)) == (low <= 0.25), right


def test_says_how_many_are_below_it(run):
    run.change(LABEL, scores={"mmlu_0shot": score(0.1, 100)})
    run.change("dolly / lora / seed 0", scores={"mmlu_0shot": score(0.25, 100)})
    (finding,) = fired(at_chance, run)
    assert "2 of 12 cells are not above chance (25%" in finding.message and "1 of them" in finding.message
    assert set(finding.cells) == {LABEL, "dolly / lora / seed 0"}


def test_is_silent_where_guessing_has_no_accuracy(run):
    run.change(LABEL, scores={"other": score(0.1, 100, chance=None)})
    assert fired(at_chance, run) == []
