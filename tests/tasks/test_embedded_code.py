"""The embedded code rows are real solutions: every one runs and passes a check of its own."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = Path(__file__).parents[2] / "tasks" / "data" / "codealpaca.jsonl"
CHECKS = Path(__file__).parent / "data" / "codealpaca_checks.jsonl"
TIMEOUT_S = 60  # for all rows together; they need about a second

# Reads [[program, check], ...] and writes one entry per pair: null, or what went wrong.
RUNNER = """
import contextlib, io, json, sys

def problem(program, check):
    namespace = {"__name__": "row"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for name, source in (("output", program), ("check", check)):
                exec(compile(source, f"<{name}>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        return f"{type(error).__name__} in the {name}: {error}"
    return None

pairs = json.loads(sys.stdin.read())
print(json.dumps([problem(*pair) for pair in pairs]))
"""


def read_lines(path: Path) -> list[dict[str, str]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_all(pairs: list[tuple[str, str]]) -> list[str | None]:
    """Run each (program, check) in a namespace of its own, all in one fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER],
        input=json.dumps(pairs),  # plain ASCII, so the child's locale does not matter
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)
    assert len(problems) == len(pairs)
    return problems


def emptied(program: str) -> str:
    """The program with its imports and names kept, but nothing behind the names."""
    kept: list[str] = []
    for node in ast.parse(program).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            kept.append(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef):
            kept.append(f"def {node.name}(*args, **kwargs): pass")
        elif isinstance(node, ast.ClassDef):
            kept.append(f"class {node.name}: pass")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            kept += [f"{name} = None" for name in names]
    return "\n".join(kept)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    """The embedded rows."""
    return read_lines(ROWS)


@pytest.fixture(scope="module")
def checks() -> list[dict[str, str]]:
    """The checks that belong to the rows."""
    return read_lines(CHECKS)


def test_every_row_has_a_check_that_asserts(rows: list[dict[str, str]], checks: list[dict[str, str]]) -> None:
    """Rows and checks join one to one, in order; each check asserts, twice where a function is defined."""
    assert [row["instruction"] for row in rows] == [check["instruction"] for check in checks]
    assert len({row["instruction"] for row in rows}) == len(rows)
    for row, check in zip(rows, checks, strict=True):
        asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(check["check"])))
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(row["output"]).body)
        assert asserts >= (2 if defines else 1), row["instruction"]


def test_every_output_runs_and_passes_its_check(rows: list[dict[str, str]], checks: list[dict[str, str]]) -> None:
    """Each solution executes in a fresh namespace and does what its check says."""
    problems = run_all([(row["output"], check["check"]) for row, check in zip(rows, checks, strict=True)])
    failed = [
        f"{row['instruction']}\n    {problem}"
        for row, problem in zip(rows, problems, strict=True)
        if problem is not None
    ]
    assert not failed, "\n".join(failed)


def test_every_check_fails_for_an_emptied_output(rows: list[dict[str, str]], checks: list[dict[str, str]]) -> None:
    """No check is vacuous: with the names bound but nothing behind them, it fails, and in the check."""
    pairs = [(emptied(row["output"]), check["check"]) for row, check in zip(rows, checks, strict=True)]
    problems = run_all(pairs)
    vacuous = [
        row["instruction"]
        for row, problem in zip(rows, problems, strict=True)
        if problem is None or "in the check" not in problem
    ]
    assert not vacuous, "\n".join(vacuous)


def test_the_runner_reports_what_goes_wrong() -> None:
    """The runner tells success from a wrong answer, an error, bad syntax and an exit, and shares no names."""
    problems = run_all(
        [
            ("x = 1\nprint('ignored')", "assert x == 1"),
            ("x = 2", "assert x == 1"),
            ("", "assert x == 1"),
            ("x = (", "assert x == 1"),
            ("raise SystemExit(0)", "assert True"),
        ]
    )
    assert problems[0] is None
    starts = [
        "AssertionError in the check",
        "NameError in the check",
        "SyntaxError in the output",
        "SystemExit in",
    ]
    for problem, start in zip(problems[1:], starts, strict=True):
        assert problem is not None
        assert problem.startswith(start)
