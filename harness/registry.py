"""Find plugins by name. A plugin is a file in its kind's folder, or an entry point of another package.

Listing reads the files and does not import them. So a plugin may import what it likes.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import ValidationError

from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.files import PACKAGE, module_file
from floe_bench.harness.spec.base import is_recordable
from floe_bench.harness.spec.options import Options

Kind = Literal["method", "mix", "evaluation", "experiment", "check", "claim", "benchmark"]

PACKAGES: dict[Kind, str] = {
    "method": "floe_bench.baselines",
    "mix": "floe_bench.tasks.mixes",
    "evaluation": "floe_bench.tasks.evals",
    "experiment": "floe_bench.harness.experiments",
    "check": "floe_bench.harness.report.checks",
    "claim": "floe_bench.harness.report.claims",
    "benchmark": "floe_bench.harness.benchmarks",
}
ENTRY_POINT_GROUPS: dict[Kind, str] = {
    "method": "floe_bench.baselines",
    "mix": "floe_bench.mixes",
    "evaluation": "floe_bench.evals",
    "experiment": "floe_bench.experiments",
    "check": "floe_bench.checks",
    "claim": "floe_bench.claims",
    "benchmark": "floe_bench.benchmarks",
}


@dataclass(frozen=True)
class Plugin:
    """Say where a plugin lives, and what its file says of itself. Only `load` imports it."""

    id: str
    kind: Kind
    module: str
    file: Path
    origin: str

    @property
    def description(self) -> str:
        docstring = ast.get_docstring(self._tree) or ""
        return docstring.strip().split("\n", 1)[0]

    @property
    def options(self) -> dict[str, str]:
        """Return option name -> type and default, as the source writes them.

        They come from the plugin's class `Options` and the classes that it extends.
        """
        return _fields_written(self._tree, "Options")

    @property
    def _tree(self) -> ast.Module:
        return ast.parse(self.file.read_text(encoding="utf-8"), filename=str(self.file))

    def load(self) -> ModuleType:
        """Import the plugin."""
        return importlib.import_module(self.module)


def _fields_written(tree: ast.Module, name: str) -> dict[str, str]:
    """Return field -> type and default of a class; fields of those of our classes that it extends come first."""
    found: dict[str, str] = {}
    for cls in tree.body:
        if not isinstance(cls, ast.ClassDef) or cls.name != name:
            continue
        for base in cls.bases:
            if isinstance(base, ast.Name) and (file := _origin(tree, base.id)):
                found |= _fields_written(ast.parse(file.read_text(encoding="utf-8")), base.id)
        found |= {
            node.target.id: f"{ast.unparse(node.annotation)} = {_default_text(node.value)}"
            for node in cls.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
    return found


def _origin(tree: ast.Module, name: str) -> Path | None:
    """Return the file of ours that the module imports the name from; None where there is none."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return module_file(node.module)
    return None


def _default_text(value: ast.expr | None) -> str:
    """Return the default as written; for `Field(default, ...)` the first argument."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("Field"):
        value = value.args[0] if value.args else None
    return ast.unparse(value) if value else "required"


@cache
def plugins(kind: Kind) -> dict[str, Plugin]:
    """Return all plugins of a kind by id. Raises UsageError where two share an id."""
    found: dict[str, Plugin] = {}
    for plugin in [*_in_folder(kind), *_in_packages(kind)]:
        if plugin.id in found:
            raise UsageError(
                f"two {kind}s are called '{plugin.id}': {found[plugin.id].file} and {plugin.file}; rename one"
            )
        found[plugin.id] = plugin
    return dict(sorted(found.items()))


def find(kind: Kind, name: str) -> Plugin:
    """Return the plugin of that id. Raises UsageError for an unknown id, and names the nearest ones."""
    known = plugins(kind)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def _in_folder(kind: Kind) -> list[Plugin]:
    package = PACKAGES[kind]
    folder = PACKAGE.parent.joinpath(*package.split("."))
    return [
        Plugin(file.stem, kind, f"{package}.{file.stem}", file, str(file.relative_to(PACKAGE)))
        for file in sorted(folder.glob("*.py"))
        if not file.stem.startswith("_")
    ]


def _in_packages(kind: Kind) -> list[Plugin]:
    found = []
    for point in entry_points(group=ENTRY_POINT_GROUPS[kind]):
        origin = point.dist.name if point.dist else "unknown package"
        try:
            spec = importlib.util.find_spec(point.module)
        except ModuleNotFoundError:  # the package that the module should lie in
            spec = None
        if spec is None or spec.origin is None:
            raise UsageError(f"package '{origin}' announces {kind} '{point.name}', but {point.module} is missing")
        found.append(Plugin(point.name, kind, point.module, Path(spec.origin), origin))
    return found


# --- method names with options --------------------------------------------------------------------


@dataclass(frozen=True)
class MethodRef:
    """Hold a method with its options. `name` is canonical: it leaves out defaults and keeps the declared order."""

    plugin: Plugin
    options: Options

    @property
    def name(self) -> str:
        changed = [
            f"{key}={_text(value)}"
            for key, value in self.options
            if value != type(self.options).model_fields[key].default
        ]
        return ":".join([self.plugin.id, *changed])


def parse_method(text: str) -> MethodRef:
    """Read `name` or `name:key=value:key=value`; `+` joins the items of a list.

    Raises UsageError for an unknown method or option, an option without a value or set twice, and a refused value.
    """
    name, *pairs = text.split(":")
    plugin = find("method", name)
    options_class: type[Options] = getattr(plugin.load(), "Options", Options)
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"option '{pair}' of method '{name}' has no value: write {name}:option=value")
        if key not in options_class.model_fields:
            raise unknown(f"option of method '{name}':", key, options_class.model_fields)
        if key in values:
            raise UsageError(f"method '{text}' sets option {key} twice: leave one")
        values[key] = tuple(value.split("+")) if _is_list(options_class, key) else value
    try:
        method = MethodRef(plugin, options_class.model_validate(values))
    except ValidationError as error:
        first = error.errors()[0]
        option = f", option {first['loc'][0]}" if first["loc"] else ""
        raise UsageError(f"method '{text}'{option}: {first['msg'].removeprefix('Value error, ')}") from None
    if not is_recordable(method.options.model_dump()):
        raise UsageError(f"method '{text}': text in UTF-8 or finite numbers of 64 bits were expected")
    for mix in method.options.mixes():
        find("mix", mix)
    for other in method.options.methods():
        if find("method", other.partition(":")[0]) == plugin:
            raise UsageError(f"method '{text}' depends on '{other}', on itself: name another method")
        parse_method(other)
    return method


def _is_list(options_class: type[Options], key: str) -> bool:
    return "tuple" in str(options_class.model_fields[key].annotation)


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
