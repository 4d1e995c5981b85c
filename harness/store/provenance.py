"""Say where a number comes from: commit, versions, hardware and time."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from floe_bench.harness.files import checkout

LIBRARIES = (
    "torch", "transformers", "peft", "optuna", "accelerate", "tokenizers", "lm_eval", "datasets", "numpy",
)  # fmt: skip


RECORDED = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES",
    "FLASH_ATTENTION_DETERMINISTIC",
)  # fmt: skip
"""Variables that choose threads, kernels or devices."""


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute; "missing" where one is not installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def provenance() -> dict[str, Any]:
    """Return commit, versions, hardware, environment and time. Of these a record's key has the versions only."""
    return {
        "git": _git(),
        "versions": versions(),
        "hardware": hardware(),
        "environment": {name: os.environ[name] for name in RECORDED if name in os.environ},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def hardware() -> dict[str, Any]:
    """Return processor, cores, threads, memory (GiB) and accelerator of this machine."""
    import psutil
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Return commit and dirty flag; None outside a git checkout or without git."""
    root = checkout()
    if root is None or not (root / ".git").exists():  # a repository around the folder is not the code's own
        return None
    try:
        commit = _git_output(root, "rev-parse", "HEAD")
        return {"commit": commit.strip(), "dirty": bool(_git_output(root, "status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git_output(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
