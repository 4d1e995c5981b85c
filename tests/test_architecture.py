"""What holds of the whole tree, read from its source."""

import ast
import re
from pathlib import Path

import pytest

from harness import registry

ROOT = registry.ROOT
SOURCES = sorted(path for folder in ("harness", "baselines", "tasks") for path in (ROOT / folder).rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Absolute names of all that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = ".".join(file.relative_to(ROOT).parts[: -node.level])
                found.add(f"{package}.{node.module or ''}".rstrip("."))
            elif node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in ("harness", "baselines", "tasks")}


def starts_with(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


@pytest.mark.parametrize("file", [p for p in SOURCES if p.is_relative_to(ROOT / "baselines")], ids=str)
def test_methods_import_contracts_and_mathematics_but_not_the_engine(file):
    allowed = ("harness.contracts", "harness.errors", "harness.floe", "baselines")
    assert {name for name in ours(imports(file)) if not starts_with(name, allowed)} == set()


@pytest.mark.parametrize("file", [p for p in SOURCES if p.is_relative_to(ROOT / "tasks")], ids=str)
def test_tasks_import_contracts_and_mathematics_but_not_the_engine(file):
    allowed = ("harness.contracts", "harness.errors", "harness.floe", "tasks")
    assert {name for name in ours(imports(file)) if not starts_with(name, allowed)} == set()


@pytest.mark.parametrize("file", [p for p in SOURCES if p.is_relative_to(ROOT / "harness" / "floe")], ids=str)
def test_the_mathematics_know_nothing_of_the_engine(file):
    assert {name for name in ours(imports(file)) if not starts_with(name, ("harness.floe",))} == set()


@pytest.mark.parametrize("file", [p for p in SOURCES if p.is_relative_to(ROOT / "harness" / "report")], ids=str)
def test_the_report_reads_records_only(file):
    allowed = ("harness.contracts", "harness.settings", "harness.files", "harness.identity", "harness.report")
    names = imports(file)
    assert {name for name in ours(names) if not starts_with(name, allowed)} == set()
    assert not {name for name in names if name.split(".")[0] in ("torch", "transformers", "peft", "datasets")}


def test_one_file_knows_lm_eval():
    assert [p.name for p in SOURCES if any(n.split(".")[0] == "lm_eval" for n in imports(p))] == ["evaluate.py"]


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_nothing_unsafe(file):
    names = {name.split(".")[0] for name in imports(file)}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib"}
    assert not re.search(r"trust_remote_code|shell=True|torch\.(load|save)\(|allow_pickle=True", file.read_text())


@pytest.mark.parametrize("file", sorted((ROOT / "harness").glob("*.py")), ids=str)
def test_no_method_is_named_in_shared_code(file):
    strings = {
        node.value
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not strings & set(registry.plugins("method"))


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_no_file_has_grown_past_one_reason_to_change(file):
    assert len(file.read_text().splitlines()) <= 350
