"""Compute which code a result depends on: a module and all that it imports, lazily or not."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import packages_distributions
from itertools import accumulate
from pathlib import Path

from floe_bench.harness.files import digest, module_file

OURS = "floe_bench"
CELL = f"{OURS}.harness.run.cell"
"""Every cell starts here. The engine is this module and all that it imports."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def engine() -> dict[str, str]:
    """Return the code that every cell runs: module -> `code_digest`."""
    return closure(CELL)


def beyond_engine(module: str) -> dict[str, str]:
    """Return the code that a plugin adds to the engine (its module and imports): module -> `code_digest`."""
    return {name: found for name, found in closure(module).items() if name not in engine()}


@cache
def closure(module: str) -> dict[str, str]:
    """Return the module and all that it imports, directly or not: module -> `code_digest`.

    Only modules of this project and of the module's own package are followed. Imports inside functions count.
    Raises ValueError where the module has no source.
    """
    followed = {OURS, *_packages_beside(module.partition(".")[0])}
    if module_file(module) is None:
        raise ValueError(f"module {module} has no source file, so its code cannot be told from another's")
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = module_file(name)
        if name in found or file is None:
            continue
        found[name] = code_digest(file)
        of_package = file.name == "__init__.py"
        waiting += [
            part
            for part in _imported(name, of_package, file.read_text(encoding="utf-8"))
            if part.partition(".")[0] in followed
        ]
    return dict(sorted(found.items()))


def code_digest(file: Path) -> str:
    """Return a digest of a file's code. Formatting, comments and docstrings do not count."""
    return _digest_of(file.read_text(encoding="utf-8"))


@cache
def _digest_of(source: str) -> str:
    return digest(ast.dump(_code_of(source)))


def _code_of(source: str) -> ast.Module:
    """Parse the code and drop its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def _packages_beside(top: str) -> set[str]:
    """Return `top` and the top-level names that its distribution installs with it."""
    if top == OURS:
        return {top}
    by_name = packages_distributions()
    return {top} | {name for name, owners in by_name.items() if set(owners) & set(by_name.get(top, []))}


@cache  # every closure passes through the engine's modules
def _imported(name: str, of_package: bool, source: str) -> frozenset[str]:
    """Return the names that importing the module runs: its imports, and the packages that these lie in.

    `from a import b` may mean a module a.b or a name in a. Both are returned; only modules have a file.
    """
    package = name.split(".") if of_package else name.split(".")[:-1]
    modules = {name}
    for node in ast.walk(_code_of(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*origin, *([node.module] if node.module else [])])
            modules |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(part for module in modules for part in accumulate(module.split("."), "{}.{}".format))
