"""What changes a result changes its key, and nothing else does."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy
import pytest
from pydantic import BaseModel

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.files import digest, module_file
from floe_bench.harness.spec.profiles import load, names
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store import code_identity, provenance
from floe_bench.harness.store.code_identity import closure, code_digest, engine
from floe_bench.harness.store.keys import Content, cell_identity, result_settings

ROOT = Path(__file__).parents[3]
WITHOUT_EFFECT = {
    "description",
    "methods",
    "mixes",
    "seeds",
    "model.path",
    "data.path",
    "eval.primary",
    "train.checkpoint_steps",
}

CODE = '''"""What the module is for."""

import math


class Circle:
    """Round."""

    def area(self, r):
        """Its area."""
        return math.pi * r**2


async def wait():
    """Nothing comes."""
    return [1, 2]
'''

SAME = '''
# Reworded, rewrapped and without most of what was said.
import math
class Circle:
    """A circle,

    which is round.
    """
    def area(
        self,
        r,
    ):
        # the area
        return (math.pi * (r ** 2))

async def wait():
    return [
        1,
        2,
    ]
'''


def digest_of(folder: Path, name: str, code: str) -> str:
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return code_digest(folder / f"{name}.py")


# --- code -------------------------------------------------------------------------------------------


def test_comments_docstrings_and_formatting_do_not_count(tmp_path):
    assert digest_of(tmp_path, "one", CODE) == digest_of(tmp_path, "other", SAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("r**2", "r**3"),
        ("r**2", "r*2"),
        ("math.pi", "math.e"),
        ("self, r", "self, r=1"),
        ("class Circle", "class Disc"),
        ("[1, 2]", "(1, 2)"),
        ("[1, 2]", "[2, 1]"),
        ("[1, 2]", "[1.0, 2]"),
        ("[1, 2]", "'# [1, 2]'"),
        ("import math", "import math, os"),
        ("async def", "def"),
    ],
)
def test_every_change_of_code_counts(tmp_path, old, new):
    assert CODE.count(old) == 1 or old == "r**2"
    assert digest_of(tmp_path, "one", CODE) != digest_of(tmp_path, "other", CODE.replace(old, new))


def test_a_text_that_is_used_counts(tmp_path):
    one, other = (digest_of(tmp_path, name, f"PROMPT = {name!r}\n") for name in ("one", "other"))
    assert one != other


# --- what a module imports --------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Packages of one's own in the making: package("mine/a.py", "import mine.b") writes a file of one."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(path, code):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
        forget_code()
        return file

    yield write
    forget_code()


def forget_code() -> None:
    """Files are read once per process."""
    for cached in (closure, engine, module_file):
        cached.cache_clear()


def test_imports_are_followed_however_they_are_written(package):
    package(
        "mine/a.py",
        "import torch\nimport mine.b\nfrom mine import c\nfrom mine.d import value\n"
        "def later():\n    from mine.e import value\n",
    )
    for path in ("mine/__init__.py", "mine/b.py", "mine/c.py", "mine/e.py", "mine/unused.py"):
        package(path, "")
    package("mine/d.py", "from mine.pack import thing\nimport mine.a\n")
    package("mine/pack/__init__.py", "from .inner import thing\nfrom . import beside\n")
    package("mine/pack/inner.py", "from ..above import thing\nfrom .deep.down import thing\n")
    package("mine/pack/beside.py", "")
    package("mine/pack/unused.py", "")
    package("mine/pack/deep/__init__.py", "")
    package("mine/pack/deep/down.py", "")
    package("mine/above.py", "")
    parts = ("", ".a", ".above", ".b", ".c", ".d", ".e", ".pack", ".pack.beside", ".pack.deep", ".pack.deep.down")
    assert set(closure("mine.a")) == {f"mine{part}" for part in (*parts, ".pack.inner")}


def test_a_plugin_of_another_package_counts_with_its_helpers_and_what_it_imports_of_ours(package):
    package("foreign/__init__.py", "")
    package(
        "foreign/method.py", "from floe_bench.harness.floe import selection\nfrom ._helper import f\nimport numpy\n"
    )
    helper = package("foreign/_helper.py", "def f(): return 1\n")
    before = closure("foreign.method")
    assert {"foreign.method", "foreign._helper", "floe_bench.harness.floe.selection"} <= set(before)
    assert not [name for name in before if name.startswith("numpy")]
    helper.write_text("def f(): return 2\n")
    forget_code()
    after = closure("foreign.method")
    assert {name for name in before if before[name] != after[name]} == {"foreign._helper"}


def test_a_helper_beside_a_single_file_of_one_distribution_counts(package, tmp_path):
    package("lone_method.py", "import lone_helper\nimport beyond\n")
    package("lone_helper.py", "")
    package("beyond.py", "")
    info = tmp_path / "lone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lone\nVersion: 1.0\n")
    (info / "RECORD").write_text("lone_method.py,,\nlone_helper.py,,\n")
    assert set(closure("lone_method")) == {"lone_method", "lone_helper"}


def test_a_module_without_source_is_refused():
    with pytest.raises(ValueError, match="no_such_module has no source file"):
        closure("no_such_module")


def test_floe_depends_on_its_whole_mathematics():
    found = set(closure("floe_bench.baselines.floe"))
    floe = "floe_bench.harness.floe"
    tuner = {f"{floe}.tuner.{file.stem}" for file in (ROOT / "harness/floe/tuner").glob("[!_]*.py")}
    assert {"floe_bench.baselines._stages", f"{floe}.selection", f"{floe}.rank_search", f"{floe}.importance"} <= found
    assert tuner <= found


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the code, which `closure` reads in place of ours; our own package stays imported."""
    copy = tmp_path / "floe_bench"
    shutil.copytree(ROOT / "floe_bench", copy, ignore=shutil.ignore_patterns("__pycache__"))

    @cache  # no file comes or goes
    def in_copy(module: str) -> Path | None:
        path = tmp_path.joinpath(*module.split("."))
        found = (path / "__init__.py", path.with_name(path.name + ".py"))
        return next((file for file in found if file.is_file()), None)

    monkeypatch.setattr(code_identity, "module_file", in_copy)
    forget_code()
    yield in_copy
    monkeypatch.undo()
    forget_code()


METHODS = ("full", "lora", "floe")


def codes(settings: Settings) -> dict[str, str]:
    """Method -> digest of its cell's identity, all but its code fixed."""
    content = Content(data={"dolly": "d"}, text="t", items={}, model="m")
    evaluations = [registry.find("evaluation", name) for name in settings.eval.evals]
    return {
        method: digest(
            cell_identity(
                Cell(method=method, mix="dolly", seed=0), settings, registry.parse_method(method),
                registry.find("mix", "dolly"), evaluations, content,
            )
        )
        for method in METHODS
    }  # fmt: skip


@pytest.mark.slow
def test_a_change_in_any_module_that_a_cell_runs_makes_it_not_done_and_no_other_change_does(tree):
    modules = [
        ".".join(path.relative_to(tree("floe_bench").parent.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(tree("floe_bench").parent.rglob("*.py"))
    ]
    plugins = {method: registry.find("method", method).module for method in METHODS}
    of_all = set(closure(code_identity.CELL)) | set(closure(registry.find("mix", "dolly").module))
    for name in TINY.eval.evals:
        of_all |= set(closure(registry.find("evaluation", name).module))
    runs = {method: of_all | set(closure(module)) for method, module in plugins.items()}
    before = codes(TINY)
    for module in modules:
        file = tree(module)
        source = file.read_text(encoding="utf-8")
        file.write_text(source + "\nPLANTED = 1\n", encoding="utf-8")
        forget_code()
        after = codes(TINY)
        changed = {method for method in METHODS if after[method] != before[method]}
        assert changed == {method for method in METHODS if module in runs[method]}, module
        file.write_text(source + "\n# planted\n", encoding="utf-8")  # stays, and must change nothing to the end
    forget_code()
    assert codes(TINY) == before
    outside = set(modules) - set.union(*runs.values())
    for room in ("report", "cli", "experiments", "gate", "benchmarks", "stats"):
        assert {name for name in modules if name.startswith(f"floe_bench.harness.{room}.")} <= outside
    assert "floe_bench.harness.floe.labels" in runs["lora"]


PLUGINS = [plugin for kind in get_args(registry.Kind) for plugin in registry.plugins(kind).values()]


@pytest.mark.slow
def test_all_that_python_imports_with_a_plugin_is_in_its_closure():
    """Python's own record of what an import ran of ours; a process each would take minutes, so sets grow."""
    program = """
import importlib, json, sys
ours = lambda: {name for name in sys.modules if name.split(".")[0] == "floe_bench"}
found = {}
for module in sys.argv[1:]:
    for name in ours():
        del sys.modules[name]
    importlib.import_module(module)
    found[module] = sorted(ours())
print(json.dumps(found))
"""
    modules = [plugin.module for plugin in PLUGINS]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *modules], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = json.loads(done.stdout)
    for plugin in PLUGINS:
        missed = set(imported[plugin.module]) - set(closure(plugin.module))
        assert not missed, plugin.module


# --- settings ---------------------------------------------------------------------------------------


def settings_of(section: BaseModel, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (value, annotation) of every single setting."""
    found = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            found |= settings_of(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = (value, field.annotation)
    return found


def another(value: Any, annotation: Any) -> Any:
    """A different value that the setting allows."""
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str) and choice != value]
    if choices:
        return choices[0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value or 1
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, "x" if "str" in str(annotation) else 1)
    if isinstance(value, dict):
        return value | {"x": "y"}
    return "x" if str in get_args(annotation) else 1


def with_setting(settings: Settings, name: str, value: Any) -> Settings:
    content = settings.model_dump()
    *sections, key = name.split(".")
    target = content
    for section in sections:
        target = target[section]
    target[key] = value
    return Settings.model_validate(content)


TINY = load("tiny", {"train.micro_batch_size": 2})
ALL = settings_of(TINY)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_setting_changes_the_digest_but_those_without_effect(name):
    changed = with_setting(TINY, name, another(*ALL[name]))
    assert changed != TINY
    same = digest(result_settings(changed)) == digest(result_settings(TINY))
    assert same == (name in WITHOUT_EFFECT or name.startswith("study."))


def test_the_settings_without_effect_exist():
    assert set(ALL) > WITHOUT_EFFECT


@pytest.mark.parametrize("profile", names())
def test_every_profile_has_a_digest_that_survives_json(profile):
    values = result_settings(load(profile))
    assert digest(json.loads(json.dumps(values))) == digest(values)


# --- versions and provenance ------------------------------------------------------------------------


def test_versions_are_those_that_are_installed():
    found = provenance.versions()
    assert found["numpy"] == numpy.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "missing" not in found.values()
    assert {"torch", "transformers", "peft", "optuna", "accelerate", "tokenizers", "lm_eval"} <= set(found)


def test_a_missing_library_is_said_to_be_missing(monkeypatch):
    provenance.versions.cache_clear()
    monkeypatch.setattr(provenance, "LIBRARIES", ("no-such-library",))
    assert provenance.versions()["no-such-library"] == "missing"
    provenance.versions.cache_clear()


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance_names_commit_and_uncommitted_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.provenance()["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert provenance.provenance()["git"] == {"commit": commit, "dirty": True}


def test_provenance_does_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    assert provenance.provenance()["git"] is None
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance()["git"] is None


def test_provenance_is_json_and_describes_the_machine():
    found = json.loads(json.dumps(provenance.provenance(), allow_nan=False))
    assert set(found) == {"git", "versions", "hardware", "environment", "time"}
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gib"] > 0
    assert found["time"].endswith("+00:00")
