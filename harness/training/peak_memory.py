"""Measure the peak memory of a block of code."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """The peak in bytes, filled in when the block ends. `kind` says what was measured."""

    bytes: int = 0
    kind: str = ""


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure CUDA's peak of allocated memory, or the peak resident set, above the level at the start.

    So weights that were there before do not count. Gradients, optimiser state and activations do.

    Linux forgets the process's earlier peak when "5" is written to clear_refs. On other systems an earlier peak
    hides a lower one, and `kind` says so.
    """
    import torch

    peak = Peak()
    _return_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        yield peak
        peak.bytes, peak.kind = torch.cuda.max_memory_allocated() - start, "cuda allocated over start"
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
        start = _status_bytes("VmRSS")
        yield peak
        peak.bytes, peak.kind = max(0, _status_bytes("VmHWM") - start), "resident over start"
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        yield peak
        end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peak.bytes, peak.kind = end - start, "resident over the process's earlier peak"


def _return_freed_memory() -> None:
    """Return freed memory to the system. Otherwise later work would reuse it and seem to need none."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _status_bytes(field: str) -> int:
    """Return a field of /proc/self/status in bytes. Raises KeyError where it is missing."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
