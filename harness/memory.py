"""Peak memory of a stretch of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """Filled when the block ends. `kind` says what was measured."""

    bytes: int = 0
    kind: str = ""


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """CUDA's peak of allocated memory, or the peak resident set over the resident set at the start.

    Linux forgets the process's earlier peak when "5" is written to clear_refs; elsewhere the earlier
    peak hides a lower one, and `kind` says so.
    """
    import torch

    peak = Peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.bytes, peak.kind = torch.cuda.max_memory_allocated(), "cuda allocated"
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
        start = _status_bytes("VmRSS")
        yield peak
        peak.bytes, peak.kind = max(0, _status_bytes("VmHWM") - start), "resident over start"
    else:
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        yield peak
        end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peak.bytes, peak.kind = end - start, "resident over the process's earlier peak"


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
