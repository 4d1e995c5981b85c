"""Peak memory against an allocation of known size."""

import numpy as np

from floe_bench.harness.training.peak_memory import peak_memory


def test_sees_memory_that_was_freed_again():
    with peak_memory() as peak:
        block = np.ones(60_000_000 // 8)
        del block
    assert 50e6 < peak.bytes < 90e6 and peak.kind


def test_forgets_an_earlier_peak():
    block = np.ones(200_000_000 // 8)
    del block
    with peak_memory() as peak:
        pass
    if peak.kind == "resident over start":
        assert peak.bytes < 50e6
