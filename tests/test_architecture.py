"""Test rules that hold for the whole source tree."""

import ast
import importlib
import re
from collections.abc import Set
from functools import cache
from pathlib import Path

import pytest

from floe_bench.harness import registry

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("harness", "baselines", "tasks") for path in (ROOT / folder).rglob("*.py"))

LEVELS = (
    ("errors",),
    ("files", "floe", "stats"),
    ("hub",),
    ("spec",),
    ("contracts",),
    ("registry",),
    ("data",),
    ("model",),
    ("training", "evaluation"),
    ("store",),
    ("run",),
    ("report",),
    ("experiments", "gate"),
    ("benchmarks",),
    ("cli",),
)
"""The rooms of harness/. A room imports itself and rooms on the levels above its own, nothing else of ours."""
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
BENEATH_PLUGINS = ("errors", "floe", "spec", "contracts")


@cache
def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text())))


@cache
def imports(file: Path) -> frozenset[str]:
    """Absolute names of all that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ("floe_bench", *file.relative_to(ROOT).parts)[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(found)


def rooms(names: Set[str]) -> set[str]:
    """The rooms of harness/ that the names lie in."""
    return {name.split(".")[2] for name in names if name.startswith("floe_bench.harness.") and name.count(".") >= 2}


def strays(room: str, names: Set[str]) -> set[str]:
    """Rooms that a file of `room` must not import."""
    found = rooms(names) - {room}
    assert found <= LEVEL_OF.keys(), f"not in the table: {found - LEVEL_OF.keys()}"
    return {other for other in found if LEVEL_OF[other] >= LEVEL_OF[room]}


def test_every_room_is_in_the_table():
    entries = {path.stem for path in (ROOT / "harness").iterdir() if path.name[:2] != "__"}
    assert entries == set(LEVEL_OF)


HARNESS = [path for path in SOURCES if path.is_relative_to(ROOT / "harness") and path.parent != ROOT / "harness"]


@pytest.mark.parametrize("file", [*HARNESS, *(ROOT / "harness").glob("[!_]*.py")], ids=str)
def test_imports_go_one_way(file):
    room = Path(file.relative_to(ROOT / "harness").parts[0]).stem
    assert strays(room, imports(file)) == set()


def test_an_import_against_the_order_is_seen():
    assert strays("floe", {"floe_bench.harness.spec.settings"}) == {"spec"}
    assert strays("model", {"floe_bench.harness.run.session.Session", "floe_bench.harness.data.tokens"}) == {"run"}
    assert strays("training", {"floe_bench.harness.evaluation.nll"}) == {"evaluation"}
    assert strays("cli", {"floe_bench.harness.run.grid", "floe_bench.harness.cli.quiet"}) == set()


@pytest.mark.parametrize("file", [p for p in SOURCES if not p.is_relative_to(ROOT / "harness")], ids=str)
def test_plugins_import_contracts_mathematics_and_their_helpers_but_not_the_engine(file):
    own = f"floe_bench.{file.relative_to(ROOT).parts[0]}"
    names = {name for name in imports(file) if name.split(".")[0] == "floe_bench"}
    assert rooms(names) <= set(BENEATH_PLUGINS)
    helpers = {name for name in names if name.count(".") >= 2 and not name.startswith("floe_bench.harness.")}
    assert {name for name in helpers if not name.startswith(own + ".")} == set()


@pytest.mark.parametrize("room", ["report", "experiments", "gate", "stats"])
def test_tables_are_made_without_a_model(room):
    for file in (ROOT / "harness" / room).rglob("*.py"):
        assert not {n for n in imports(file) if n.split(".")[0] in ("torch", "transformers", "peft", "datasets")}, file


def test_one_file_knows_lm_eval():
    knowing = [p.name for p in SOURCES if any(n.split(".")[0] == "lm_eval" for n in imports(p))]
    assert knowing == ["multiple_choice.py"]


@pytest.mark.parametrize("file", SOURCES, ids=str)
def test_nothing_unsafe(file):
    names = {name.split(".")[0] for name in imports(file)}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib"}
    assert not re.search(
        r"trust_remote_code(?!=False)|shell=True|torch\.(load|save)\(|allow_pickle=True", file.read_text()
    )


SHARED = ("data", "model", "training", "evaluation", "store", "run", "cli", "spec", "contracts")


@pytest.mark.parametrize(
    "file", [p for room in SHARED for p in sorted((ROOT / "harness" / room).rglob("*.py"))], ids=str
)
def test_no_method_is_named_in_shared_code(file):
    strings = {node.value for node in nodes(file) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not strings & set(registry.plugins("method"))


@pytest.mark.parametrize("name", ["harness", "baselines", "tasks"])
def test_no_module_is_importable_under_two_names(name, monkeypatch):
    """From the checkout's root, Python would find its folders as packages of their own."""
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(ImportError, match=f"import floe_bench.{name}, not {name}"):
        importlib.import_module(name)
