"""The new method that the README shows, in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def readme_method() -> tuple[str, str]:
    """The file that the README shows for a new method: its name and its text."""
    found = re.search(r"`baselines/(\w+)\.py`:\n+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "the README shows no new method"
    return found.group(1), found.group(2)


def test_the_readmes_new_method_is_listed_conforms_and_runs_with_no_other_file_touched(tmp_path):
    name, text = readme_method()
    assert len(text.splitlines()) <= 15
    copy = tmp_path / "project"
    shutil.copytree(
        ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache")
    )
    (copy / "baselines" / f"{name}.py").write_text(text)
    python = [sys.executable, "-m"]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    listed = subprocess.run([*python, "floe_bench", "list"], capture_output=True, text=True, cwd=copy, env=environment)
    assert f"baselines/{name}.py" in listed.stdout
    # One process for both: loading the libraries takes longer than either.
    program = (
        "import sys, pytest\nfrom floe_bench.harness.cli.main import main\n"
        f"failed = pytest.main(['tests/conformance/test_methods.py', '-k', '[{name}]', '-q'])\n"
        f"sys.exit(failed or main(['run', 'tiny', '--mixes', 'dolly', '--methods', {name!r}]))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=copy, env=environment)
    assert ran.returncode == 0 and "8 passed" in ran.stdout and f"| {name} " in ran.stdout, ran.stdout + ran.stderr
