"""Whole runs of the command on the tiny profile, on results that were damaged and on disks that fill up."""

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from floe_bench.harness.cli.main import STORAGE_ERROR, main

from .command import NLL_ALONE, libraries_as_they_were, run, table
from .disk import largest_file

pytestmark = pytest.mark.slow

ARGUMENTS = ("--methods", "lora,floe", "--seeds", "1", *NLL_ALONE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run; whoever changes them changes a copy."""
    results = tmp_path_factory.mktemp("finished")
    run(results, *ARGUMENTS)
    return results


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 0x30
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()


def each(pattern: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(results: Path) -> None:
        found = [path for path in results.glob(pattern) if path.is_file()]
        assert found
        for path in found:
            change(path)

    return damage


def without_records(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(results: Path) -> None:
        damage(results)
        shutil.rmtree(results / "tiny" / "records")

    return both


DAMAGES = {
    "one record cut": (each("tiny/records/*lora*", cut), 1),
    "every gradient altered": (each("tiny/stages/measure-*/*.safetensors", flip), 1),
    "every item gone": (each("tiny/stages/*/items.parquet", gone), 2),
    "every array and adapter cut": (without_records(each("tiny/stages/**/*.safetensors", cut)), 2),
    "every stage marked in vain": (without_records(each("tiny/stages/*/stage.json", cut)), 2),
}


@pytest.mark.parametrize(("damage", "lost"), list(DAMAGES.values()), ids=list(DAMAGES))
def test_a_report_goes_on_with_what_is_whole_and_a_run_makes_the_rest_again(damage, lost, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    results = ("--results", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.glob("tiny/[rs]*/**/*") if path.is_file()}
    assert report("--mixes", "dolly", *ARGUMENTS, "--experiment", "main", *results) == 0
    assert before == {path: path.read_bytes() for path in tmp_path.glob("tiny/[rs]*/**/*") if path.is_file()}
    said = run(tmp_path, *ARGUMENTS)
    assert f"{lost} cells run, {2 - lost} already done, 0 failed" in said and "made again" in said
    assert table(tmp_path) == table(finished)
    said = run(tmp_path, *ARGUMENTS)
    assert "0 cells run, 2 already done" in said and "broken" not in said


def report(*arguments: str) -> int:
    with libraries_as_they_were(), contextlib.redirect_stdout(io.StringIO()):
        return main(["report", "tiny", *arguments])


def code_of(results: Path, *arguments: str) -> tuple[int, str]:
    """Run the command here; returns its exit code and what it says on stderr."""
    said = io.StringIO()
    arguments = ("run", "tiny", "--mixes", "dolly", "--results", str(results), *arguments)
    with libraries_as_they_were(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return main(arguments), said.getvalue()


def test_wherever_the_disk_refuses_the_same_command_goes_on(finished, tmp_path, monkeypatch):
    """Ever larger files fit: weights, optimiser states, items, tables and records fail in turn."""
    monkeypatch.setattr("floe_bench.harness.store.folder.ROOM", 1)
    saved = (*ARGUMENTS, "--set", "train.checkpoint_steps=1")
    refused = 0
    for limit in (100, 3_000, 8_000, 12_000, 16_000, 20_000, 24_000):
        with largest_file(limit):
            code, said = code_of(tmp_path, *saved)
        assert code in (0, STORAGE_ERROR), said
        assert "Traceback" not in said and "FAILED" not in said
        refused += code == STORAGE_ERROR
        assert code == 0 or "File too large" in said or "only a part" in said
    assert refused >= 4
    run(tmp_path, *saved)
    assert table(tmp_path) == table(finished)
    assert not list(tmp_path.rglob("*.broken*")), "what was half-written was taken for finished"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk(size): a file system of that size, or the same one grown to it. Skips where mounts are not allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = []

    def sized(size: str) -> Path:
        options = f"{'remount,' if mounted else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting needs rights: {done.stderr.strip()}")
        mounted.append(size)
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_and_then_grows_loses_nothing(finished, small_disk):
    codes = []
    for size in ("96k", "160k", "256k", "384k", "20m"):
        code, said = code_of(small_disk(size), *ARGUMENTS, "--set", "train.checkpoint_steps=1")
        assert "Traceback" not in said and "FAILED" not in said
        assert code == 0 or (code == STORAGE_ERROR and ("make room" in said or "has room" in said)), said
        codes.append(code)
    assert codes[0] == STORAGE_ERROR and codes[-1] == 0
    assert table(small_disk("20m")) == table(finished)
