"""Numbered result checks: one file each, found by the folder. What a run can have gone wrong in, read from its records.

A check is a module. Its docstring documents it: a title, then the paragraphs "What:", "Why:" and "What to do:".
`NUMBER` is its own for good, and `find(results) -> list[Finding]` tells what it found.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType

from floe_bench.harness.contracts.tables import Results


@dataclass(frozen=True)
class Finding:
    """One thing that a check found: in which cells (labels), and what, in a sentence with its numbers."""

    check: str
    number: int
    message: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """A check and its documentation. `id` is its file's name."""

    id: str
    number: int
    module: ModuleType

    @property
    def title(self) -> str:
        return (self.module.__doc__ or "").strip().split("\n", 1)[0]

    @property
    def documentation(self) -> str:
        """What it looks at, why that matters, and what to do."""
        return (self.module.__doc__ or "").strip().partition("\n")[2].strip()

    @property
    def advice(self) -> str:
        """The documentation's last part, on one line."""
        return " ".join(self.documentation.partition("What to do:")[2].split())

    def find(self, results: Results) -> list[Finding]:
        return self.module.find(results)


def all_checks() -> list[Check]:
    """Every check, by number. Raises ValueError where two share one."""
    checks: dict[int, Check] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{name}")
        check = Check(name, module.NUMBER, module)
        if check.number in checks:
            raise ValueError(
                f"checks {checks[check.number].id} and {name} both have number {check.number}: expected one each"
            )
        checks[check.number] = check
    return [checks[number] for number in sorted(checks)]


def run_checks(results: Results) -> list[Finding]:
    """What every check found, by check number."""
    return [finding for check in all_checks() for finding in check.find(results)]
