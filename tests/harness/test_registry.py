"""Plugins are found by file name or entry point, listed without import, and named with their options."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import get_args

import pytest

from floe_bench.harness import registry
from floe_bench.harness.errors import UsageError
from floe_bench.harness.registry import Kind, find, parse_method, plugins

ROOT = Path(__file__).parents[2]
KINDS: tuple[Kind, ...] = get_args(Kind)
FOLDERS: dict[Kind, str] = {
    "method": "baselines",
    "mix": "tasks/mixes",
    "evaluation": "tasks/evals",
    "experiment": "harness/experiments",
    "check": "harness/report/checks",
    "claim": "harness/report/claims",
    "benchmark": "harness/benchmarks",
}

METHOD = '''"""A method of tests.

More of it.
"""

from pydantic import Field, model_validator

from floe_bench import Options as Base


class Options(Base):
    r: int = Field(4, ge=1)
    score: str = "fisher"
    share: float = 0.5
    names: tuple[str, ...] = ("a", "b")

    @model_validator(mode="after")
    def _agree(self):
        if self.r == 13:
            raise ValueError("13 brings bad luck")
        return self
'''


@pytest.fixture(autouse=True)
def fresh():
    """Plugins are listed once per process: forget them before and after."""
    plugins.cache_clear()
    yield
    plugins.cache_clear()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project: the plugins' folders and nothing in them."""
    package = tmp_path / "floe_bench"
    for folder in FOLDERS.values():
        (package / folder).mkdir(parents=True)
    monkeypatch.setattr(registry, "PACKAGE", package)
    return package


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The only method is `demo`, and it can be loaded."""
    package = tmp_path / "demo_methods"
    package.mkdir()
    (package / "demo.py").write_text(METHOD)
    monkeypatch.setattr(registry, "PACKAGE", package)
    monkeypatch.setitem(registry.PACKAGES, "method", "demo_methods")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for module in ("demo_methods", "demo_methods.demo"):
        sys.modules.pop(module, None)


def install(folder: Path, name: str, points: dict[str, str]) -> None:
    """A package as pip leaves it: a module and a dist-info folder with entry points (group -> "id = module")."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{point}\n" for group, point in points.items()))
    (folder / f"{name}.py").write_text(f'"""From the package {name}."""\n')


# --- what is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_plugin_file_is_found(kind):
    files = {
        path for path in (ROOT / "floe_bench" / FOLDERS[kind]).iterdir() if path.suffix == ".py" and path.name[0] != "_"
    }
    assert files
    assert {plugin.file for plugin in plugins(kind).values()} == files
    for name, plugin in plugins(kind).items():
        assert name == plugin.id == plugin.file.stem
        assert plugin.description
        assert plugin.load().__file__ == str(plugin.file)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_dropped_into_the_folder_is_found_by_its_name(root, kind):
    assert plugins(kind) == {}
    plugins.cache_clear()
    (root / FOLDERS[kind] / "new_one.py").write_text('"""What is new."""\n')
    assert list(plugins(kind)) == ["new_one"]
    assert find(kind, "new_one").description == "What is new."
    assert find(kind, "new_one").origin == f"{FOLDERS[kind]}/new_one.py"


def test_files_that_start_with_an_underscore_are_no_plugins(root):
    for name in ("__init__.py", "_shared.py", "notes.txt"):
        (root / "baselines" / name).write_text("")
    assert plugins("method") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_packages_entry_point_is_found(tmp_path, monkeypatch, kind):
    group = {
        "method": "floe_bench.baselines",
        "mix": "floe_bench.mixes",
        "evaluation": "floe_bench.evals",
        "experiment": "floe_bench.experiments",
        "check": "floe_bench.checks",
        "claim": "floe_bench.claims",
        "benchmark": "floe_bench.benchmarks",
    }[kind]
    install(tmp_path, "foreign_plugin", {group: "foreign = foreign_plugin"})
    monkeypatch.syspath_prepend(tmp_path)
    found = find(kind, "foreign")
    assert found.file == tmp_path / "foreign_plugin.py"
    assert found.origin == "foreign_plugin"
    assert found.description == "From the package foreign_plugin."
    assert "foreign_plugin" not in sys.modules
    assert all("foreign" not in plugins(other) for other in KINDS if other != kind)


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module"])
def test_an_entry_point_to_nowhere_names_its_package(tmp_path, monkeypatch, module):
    install(tmp_path, "foreign_plugin", {"floe_bench.mixes": f"foreign = {module}"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"package 'foreign_plugin' announces mix 'foreign', but {module}"):
        plugins("mix")


def test_two_of_one_name_fail_with_both_files(tmp_path, monkeypatch):
    install(tmp_path, "foreign_plugin", {"floe_bench.mixes": "dolly = foreign_plugin"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError) as caught:
        plugins("mix")
    assert str(ROOT / "floe_bench" / "tasks" / "mixes" / "dolly.py") in str(caught.value)
    assert str(tmp_path / "foreign_plugin.py") in str(caught.value)


def test_two_packages_of_one_name_fail_with_both_files(tmp_path, monkeypatch):
    for name in ("first_plugin", "second_plugin"):
        install(tmp_path, name, {"floe_bench.evals": f"twin = {name}"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"first_plugin\.py and .*second_plugin\.py|second.*and.*first"):
        plugins("evaluation")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"unknown mix 'doly': did you mean dolly\?"):
        find("mix", "doly")
    with pytest.raises(UsageError, match=r"unknown method 'topk_layer': did you mean topk_layers"):
        find("method", "topk_layer")


def test_an_unknown_name_like_nothing_lists_all(root):
    for name in ("beta", "alpha"):
        (root / "tasks" / "mixes" / f"{name}.py").write_text("")
    with pytest.raises(UsageError, match="unknown mix 'qqqq': valid: alpha, beta"):
        find("mix", "qqqq")


# --- listing imports nothing ------------------------------------------------------------------------


def test_a_plugin_that_raises_at_import_is_listed_all_the_same(root):
    source = METHOD.replace("from pydantic", "raise ImportError('no such library')\nfrom pydantic")
    (root / "baselines" / "broken.py").write_text(source)
    plugin = find("method", "broken")
    assert plugin.description == "A method of tests."
    assert plugin.options == {
        "r": "int = 4",
        "score": "str = 'fisher'",
        "share": "float = 0.5",
        "names": "tuple[str, ...] = ('a', 'b')",
    }


def test_a_plugin_that_says_nothing_of_itself_is_listed(root):
    (root / "baselines" / "silent.py").write_text("class Options:\n    r: int\n")
    assert find("method", "silent").description == ""
    assert find("method", "silent").options == {"r": "int = required"}


def test_listing_loads_no_plugin_and_no_heavy_library():
    program = """
import json, sys
from typing import get_args
from floe_bench.harness import registry
for kind in get_args(registry.Kind):
    for plugin in registry.plugins(kind).values():
        plugin.description, plugin.options
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    known = {plugin.module for kind in KINDS for plugin in plugins(kind).values()}
    assert not loaded & (known | {"torch", "transformers", "peft", "optuna", "datasets", "pandas", "numpy"})


# --- names with options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("demo", "demo"),
        ("demo:r=4", "demo"),
        ("demo:r=8", "demo:r=8"),
        ("demo:r=08", "demo:r=8"),
        ("demo:score=taylor:r=8", "demo:r=8:score=taylor"),
        ("demo:share=0.50:score=taylor", "demo:score=taylor"),
        ("demo:names=x+y:share=0.25", "demo:share=0.25:names=x+y"),
        ("demo:names=x", "demo:names=x"),
        ("demo:names=a+b", "demo"),
    ],
)
def test_a_canonical_name_drops_defaults_and_orders_options(demo, text, canonical):
    assert parse_method(text).name == canonical
    assert parse_method(canonical).name == canonical
    assert parse_method(canonical).options == parse_method(text).options


def test_options_arrive_typed(demo):
    options = parse_method("demo:r=8:share=0.25:names=x+y").options
    assert options.model_dump() == {"r": 8, "score": "fisher", "share": 0.25, "names": ("x", "y")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("demoo", r"unknown method 'demoo': did you mean demo\?"),
        ("demo:rr=8", r"option of method 'demo': 'rr': did you mean r\?"),
        ("demo:skore=x", r"did you mean score"),
        ("demo:r", r"option 'r' of method 'demo' has no value: write demo:option=value"),
        ("demo:", r"has no value"),
        ("demo:r=0", r"option r: Input should be greater than or equal to 1"),
        ("demo:r=four", r"option r: Input should be a valid integer"),
        ("demo:r=2:r=8", r"sets option r twice"),
        ("demo:r=13", r"method 'demo:r=13': 13 brings bad luck"),
    ],
)
def test_bad_options_are_usage_errors(demo, text, message):
    with pytest.raises(UsageError, match=message):
        parse_method(text)


def test_the_projects_own_methods_take_options():
    assert parse_method("lora:r=16").name == "lora:r=16"
    assert parse_method("lora:target_modules=q_proj+v_proj:r=16").name == "lora:r=16:target_modules=q_proj+v_proj"
    assert parse_method("base").name == "base"
    with pytest.raises(UsageError, match="option r"):
        parse_method("lora:r=0")


def test_a_method_without_options_takes_none(root, monkeypatch):
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [EntryPoint("plain", "colorsys", group)] if "base" in group else []
    )
    assert parse_method("plain").name == "plain"
    with pytest.raises(UsageError, match="unknown option of method 'plain': 'r': valid: none"):
        parse_method("plain:r=1")


# --- what options draw in ---------------------------------------------------------------------------


def test_options_of_classes_that_the_plugins_own_extends_are_listed():
    """As the class itself has them, in its order."""
    for plugin in plugins("method").values():
        options = getattr(plugin.load(), "Options", None)
        assert list(plugin.options) == (list(options.model_fields) if options else []), plugin.id
    assert find("method", "lora").options["match"] == "str | None = None"
    assert find("method", "layer_scores").options["parts"] == "int = 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("floe_layers:on=cod", r"unknown mix 'cod': did you mean code\?"),
        ("layer_scores:drift_to=medicine:drift=0.5", r"unknown mix 'medicine': did you mean medical"),
        ("hydralora:match=lorra", r"unknown method 'lorra': did you mean lora"),
        ("topk_layers:match=topk_layers", r"'topk_layers:match=topk_layers' depends on 'topk_layers', on itself"),
    ],
)
def test_what_options_draw_in_must_exist(text, message):
    with pytest.raises(UsageError, match=message):
        parse_method(text)


def test_a_matched_method_has_one_canonical_name():
    assert parse_method("random_layers:draw=3:match=floe").name == parse_method("random_layers:match=floe:draw=3").name
    assert parse_method("floe_layers:parts=1:drift=0.0").name == "floe_layers"
