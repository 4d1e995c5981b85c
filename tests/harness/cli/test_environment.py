"""What a shell may have set: no other number, no hang; and output that cannot be written as it is."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from floe_bench.harness.cli import environment
from floe_bench.harness.cli.paths import path
from floe_bench.harness.errors import UsageError
from floe_bench.harness.store import provenance

from ...command import NLL_ALONE, ROOT, command

HOSTILE = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "RANK": "0",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29555",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_SIZE": "4",
    "SLURM_PROCID": "3",
    "USE_TORCH": "0",
    "OPTUNA_STORAGE": "sqlite:///elsewhere.db",
    "PYTHONHASHSEED": "12",
    "GIT_DIR": "/nowhere/.git",
}


def documented() -> set[str]:
    rows = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8").splitlines()
    return {name for row in rows if "| dropped" in row for name in re.findall(r"`([A-Z0-9_]+\*?)`", row)}


def test_the_document_says_what_is_dropped_and_recorded():
    assert documented() == set(environment.DROPPED)
    text = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in provenance.RECORDED)
    assert not any(environment.is_dropped(name) for name in provenance.RECORDED)


def test_only_what_is_named_is_dropped(monkeypatch):
    kept = {"PATH_TO": "x", "RANKING": "x", "HF_HOME": "x", "GITHUB_X": "x"}
    monkeypatch.setattr(os, "environ", {**HOSTILE, **kept})
    environment.settle()
    assert dict(os.environ) == kept | {"PYTHONHASHSEED": "12"}


def record_of(folder: Path) -> dict:
    [found] = (folder / "tiny" / "records").glob("*.json")
    return json.loads(found.read_text())


@pytest.mark.slow
def test_a_hostile_environment_changes_no_number(tmp_path):
    """The same key and the same losses, bit by bit: it is the same machine and code."""
    found = {}
    for name, variables in (("clean", {}), ("hostile", HOSTILE)):
        subprocess.run(
            command(tmp_path / name, "--methods", "lora", "--seeds", "1", *NLL_ALONE),
            env=os.environ | variables,
            check=True,
            capture_output=True,
            timeout=300,
        )
        found[name] = record_of(tmp_path / name)
    clean, hostile = found["clean"], found["hostile"]
    assert clean["key"] == hostile["key"] and clean["status"] == hostile["status"] == "ok"
    assert clean["training"]["loss_curve"] == hostile["training"]["loss_curve"]
    assert clean["provenance"]["git"] == hostile["provenance"]["git"]


# --- output -----------------------------------------------------------------------------------------


def listing(stdout, **variables: str) -> subprocess.CompletedProcess:
    start = [*command(Path("unused"))[:3], "list"]
    return subprocess.run(start, stdout=stdout, stderr=subprocess.PIPE, env=os.environ | variables, timeout=60)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_what_an_encoding_lacks_is_replaced(encoding):
    done = listing(subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding)


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.closing(os.fdopen(writer, "wb")) as closed:
        done = listing(closed)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_output_is_one_sentence():
    with Path("/dev/full").open("wb") as full:
        done = listing(full)
    assert done.returncode == 3
    assert done.stderr.decode().startswith("floe-bench: the output cannot be written") and done.stderr.count(b"\n") == 1


# --- paths ------------------------------------------------------------------------------------------


def test_the_home_folder_is_the_homes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert path("~/out") == Path("/home/somebody/out")
    assert path("./~/out") == Path("~/out")


@pytest.mark.parametrize("text", ["", "a\0b", "~nobody-of-that-name/out"])
def test_what_is_no_path_is_refused(text):
    with pytest.raises(UsageError):
        path(text)
