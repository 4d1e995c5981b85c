"""What changes a result changes its key, and nothing else does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy
import pytest
from pydantic import BaseModel

from harness import identity, registry
from harness.files import digest
from harness.identity import code_digest, module_digests, result_settings, source_digests
from harness.profiles import load, names
from harness.settings import Settings

ROOT = Path(__file__).parents[2]
SHAPES = {"harness.contracts", "harness.settings", "harness.errors"}
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


def test_modules_are_digested_alone():
    found = module_digests("harness.floe.selection", "harness.floe.tuner")
    assert found == {
        "harness.floe.selection": code_digest(ROOT / "harness/floe/selection.py"),
        "harness.floe.tuner": code_digest(ROOT / "harness/floe/tuner/__init__.py"),
    }


# --- what a file imports ----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in the making: project("baselines/a.py", "import harness.b") writes a file of it."""
    monkeypatch.setattr(identity, "ROOT", tmp_path)

    def write(path, code):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
        return file

    return write


def test_imports_are_followed_however_they_are_written(project):
    file = project(
        "baselines/a.py",
        "import torch\nimport harness.b\nfrom harness import c\nfrom harness.d import value\n"
        "from harness.contracts import Row\n"
        "def later():\n    from tasks.e import value\n",
    )
    for path in ("harness/b.py", "harness/c.py", "tasks/e.py", "harness/unused.py", "harness/contracts.py"):
        project(path, "")
    project("harness/d.py", "from harness.pack import thing\nimport baselines.a\n")
    project("harness/pack/__init__.py", "from .inner import thing\nfrom . import beside\n")
    project("harness/pack/inner.py", "from ..above import thing\nfrom .deep.down import thing\n")
    project("harness/pack/beside.py", "")
    project("harness/pack/unused.py", "")
    project("harness/pack/deep/__init__.py", "")
    project("harness/pack/deep/down.py", "")
    project("harness/above.py", "")
    assert set(source_digests(file)) == {
        "baselines.a",
        "harness.above",
        "harness.b",
        "harness.c",
        "harness.d",
        "harness.pack",
        "harness.pack.beside",
        "harness.pack.deep",
        "harness.pack.deep.down",
        "harness.pack.inner",
        "tasks.e",
    }


def test_a_change_far_down_changes_that_module_alone(project):
    file = project("baselines/a.py", "from harness.b import f\n")
    project("harness/b.py", "from harness.c import f\n")
    far = project("harness/c.py", "def f(): return 1\n")
    before = source_digests(file)
    far.write_text("def f(): return 2\n")
    source_digests.cache_clear()
    code_digest.cache_clear()
    identity.code_of.cache_clear()
    after = source_digests(file)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"harness.c"}


def test_a_file_of_another_package_goes_by_its_name(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("site") / "foreign.py"
    outside.write_text("from harness.b import f\nimport numpy\n")
    project("harness/b.py", "")
    assert set(source_digests(outside)) == {"foreign", "harness.b"}


def test_floe_depends_on_its_whole_mathematics():
    found = set(source_digests(ROOT / "baselines" / "floe.py"))
    tuner = {f"harness.floe.tuner.{file.stem}" for file in (ROOT / "harness/floe/tuner").glob("[!_]*.py")}
    assert {"baselines.floe", "baselines._stages", "harness.floe.selection", "harness.floe.rank_search"} <= found
    assert {"harness.floe.importance", "harness.floe.tuner", *tuner} <= found
    assert not found & SHAPES


PLUGINS = [plugin for kind in get_args(registry.Kind) for plugin in registry.plugins(kind).values()]


@pytest.mark.slow
def test_all_that_python_imports_with_a_plugin_is_in_its_digests():
    """Python's own record of what an import ran of ours; a process each would take minutes, so sets grow."""
    program = """
import importlib, json, sys
ours = lambda: {name for name in sys.modules if name.split(".")[0] in ("harness", "baselines", "tasks")}
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
        missed = set(imported[plugin.module]) - set(source_digests(plugin.file)) - SHAPES
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
    found = identity.versions()
    assert found["numpy"] == numpy.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "missing" not in found.values()
    assert {"torch", "transformers", "peft", "optuna", "accelerate", "tokenizers", "lm_eval"} <= set(found)


def test_a_missing_library_is_said_to_be_missing(monkeypatch):
    identity.versions.cache_clear()
    monkeypatch.setattr(identity, "LIBRARIES", ("no-such-library",))
    assert identity.versions()["no-such-library"] == "missing"
    identity.versions.cache_clear()


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_provenance_names_commit_and_uncommitted_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert identity.provenance()["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert identity.provenance()["git"] == {"commit": commit, "dirty": True}


def test_provenance_does_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    assert identity.provenance()["git"] is None
    monkeypatch.setenv("PATH", "")
    assert identity.provenance()["git"] is None


def test_provenance_is_json_and_describes_the_machine():
    found = json.loads(json.dumps(identity.provenance(), allow_nan=False))
    assert set(found) == {"git", "versions", "hardware", "time"}
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gib"] > 0
    assert found["time"].endswith("+00:00")
