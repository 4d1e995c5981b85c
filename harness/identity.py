"""What can change a result, as values to hash: source code, library versions, settings."""

from __future__ import annotations

import ast
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from typing import Any

from harness.files import digest
from harness.registry import ROOT
from harness.settings import Settings

LIBRARIES = (
    "torch", "transformers", "peft", "optuna", "accelerate", "tokenizers", "lm_eval", "datasets", "numpy",
)  # fmt: skip
OUR_PACKAGES = ("harness", "baselines", "tasks")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ENGINE = tuple(
    f"harness.{name}"
    for name in (
        "adapting", "data", "evaluate", "inputs", "loglikelihood", "memory", "models", "nll", "overlap", "preflight",
        "run", "scoring", "sources", "stages", "teacher", "token_tree", "train", "workbench", "floe.frozen_prefix",
        "floe.loading",
    )
)  # fmt: skip
"""The modules of the engine that can change a number."""

SHAPES_ONLY = {"harness.contracts", "harness.settings", "harness.errors"}
"""Modules that hold no mathematics: a change in them changes no number."""


@cache
def versions() -> dict[str, str]:
    """The versions of the libraries that compute."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


@cache
def code_digest(file: Path) -> str:
    """A digest of what a file's code says: formatting, comments and docstrings do not count."""
    return digest(ast.dump(code_of(file)))


@cache
def code_of(file: Path) -> ast.Module:
    """A file's code without docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


@cache
def source_digests(file: Path) -> dict[str, str]:
    """The file and all that it imports from this project, directly or not: module -> `code_digest`."""
    found: dict[str, str] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        name = _module_name(current)
        if name in found or name in SHAPES_ONLY:
            continue
        found[name] = code_digest(current)
        waiting += _imported_files(current)
    return dict(sorted(found.items()))


@cache
def module_digests(*modules: str) -> dict[str, str]:
    """`code_digest` of modules of ours, each alone."""
    return {module: code_digest(_module_file(module)) for module in modules}


@cache
def engine_digest() -> str:
    """A digest of all of ENGINE."""
    return digest(module_digests(*ENGINE))


def result_settings(settings: Settings) -> dict[str, Any]:
    """The settings that can change a cell's result: not where files lie, nor what else is in the grid."""
    values = settings.model_dump(mode="json", exclude={"description", "methods", "mixes", "seeds", "study"})
    for section, key in (
        ("model", "path"),
        ("data", "path"),
        ("eval", "primary"),
        ("train", "checkpoint_steps"),
    ):
        del values[section][key]
    return values


def provenance() -> dict[str, Any]:
    """Git commit and dirty flag, versions, hardware and time: for the record, not for the key."""
    return {
        "git": _git(),
        "versions": versions(),
        "hardware": hardware(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerator of this machine."""
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
    """None where the project is not a git checkout or git is not installed."""
    try:
        commit = _git_output("rev-parse", "HEAD")
        return {"commit": commit.strip(), "dirty": bool(_git_output("status", "--porcelain").strip())}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git_output(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _module_name(file: Path) -> str:
    if not file.is_relative_to(ROOT):
        return file.stem
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported_files(file: Path) -> list[Path]:
    """What importing the file runs of ours: what it imports, and the packages that these lie in."""
    name = _module_name(file)
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    modules = {name}
    for node in ast.walk(code_of(file)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*origin, *([node.module] if node.module else [])])
            modules |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    with_packages = {part for module in modules for part in accumulate(module.split("."), "{}.{}".format)}
    ours = (_module_file(module) for module in with_packages if module.split(".")[0] in OUR_PACKAGES)
    return sorted({path for path in ours if path.is_file()})
