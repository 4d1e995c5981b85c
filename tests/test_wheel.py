"""Test the installed distribution: it has one top-level name, and its command works anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def built(checkout: Path, folder: Path) -> Path:
    """The wheel of a checkout, built with what is installed here."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(checkout)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def top_level(wheel: Path) -> set[str]:
    """What the wheel puts into site-packages, its own metadata left out."""
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    return {name for name in names if not name.endswith(".dist-info")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without what building leaves behind."""
    ignored = shutil.ignore_patterns(".git", ".venv", "results", "__pycache__", ".*_cache", "*.egg-info", "build")
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "checkout", symlinks=True, ignore=ignored)


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(copy, tmp_path_factory.mktemp("wheel"))


def test_it_owns_one_top_level_name(wheel):
    assert top_level(wheel) == {"floe_bench"}


def test_it_holds_every_module_and_data_file_of_the_checkout(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    kept = [path for folder in ("harness", "baselines", "tasks") for path in (ROOT / folder).rglob("*.*")]
    wanted = {f"floe_bench/{path.relative_to(ROOT)}" for path in kept if path.suffix in (".py", ".toml", ".jsonl")}
    assert wanted <= inside


def test_a_second_top_level_package_would_be_seen(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other", symlinks=True)
    project = (other / "pyproject.toml").read_text()
    (other / "pyproject.toml").write_text(project.replace('["floe_bench*"]', '["floe_bench*", "tasks*"]'))
    assert top_level(built(other, tmp_path / "wheel")) == {"floe_bench", "tasks"}


def test_it_runs_tiny_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True)

    assert python("-c", "import floe_bench; print(floe_bench.__file__)").stdout.startswith(str(site))
    ran = python("-m", "floe_bench", "run", "tiny", "--methods", "base", "--mixes", "dolly")
    assert ran.returncode == 0, ran.stderr
    assert list((empty / "results" / "tiny" / "records").glob("*.json"))
    assert "| dolly" in ran.stdout
