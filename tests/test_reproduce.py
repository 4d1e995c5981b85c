"""Test `reproduce.sh` up to the command it starts, on a checkout whose Python only pretends to install."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from floe_bench.harness.spec import profiles

ROOT = Path(__file__).parents[1]

PYTHON = f"""#!/bin/sh
# A Python that computes as the real one, installs nothing, and writes down what it was asked for.
here="$(dirname "$0")"
case "$*" in
    -c*) exec '{sys.executable}' "$@" ;;
    "-m venv "*) for folder; do :; done; rm -rf "$folder"; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python" ;;
    "-m ensurepip") [ -z "${{NO_ENSUREPIP:-}}" ] && touch "$here/pip" ;;
    "-m pip --version") [ -e "$here/pip" ] ;;
    "-m pip install "*)
        shift 6
        echo "pip $* $(env | grep -c '^PIP_\\|^PYTHONHOME=\\|^PYTHONPATH=')" >>"$ASKED"
        sleep "${{SLOW:-0}}"
        [ -z "${{BROKEN_PIP:-}}" ] || {{ echo "$BROKEN_PIP" >&2; exit 1; }} ;;
    *) echo "$*" >>"$ASKED"; echo "from ${{PYTHONPATH:-$0}}" ;;
esac
"""
OLD = "#!/bin/sh\necho 3.9\nexit 1\n"
INSTALLED = ["pip torch==", "pip --no-deps --requirement ", "pip --no-deps --no-build-isolation --editable ."]


class Checkout:
    """A checkout, the Pythons on PATH, and what they were asked for."""

    def __init__(self, root: Path, pythons: Path):
        self.root, self.pythons = root, pythons
        self.asked_file = pythons.parent / "asked"
        self.environment = {
            "PATH": f"{pythons}:/usr/bin:/bin", "HOME": str(pythons.parent), "ASKED": str(self.asked_file)
        }  # fmt: skip
        (root / "harness" / "spec").mkdir(parents=True)
        shutil.copytree(ROOT / "harness" / "spec" / "profiles", root / "harness" / "spec" / "profiles")
        for file in ("reproduce.sh", "pyproject.toml", "requirements.lock", "harness/errors.py"):
            shutil.copy(ROOT / file, root / file)
        pythons.mkdir()
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
            self.add(name, "#!/bin/sh\nexit 127\n")  # hides those of this machine
        self.add("python3", PYTHON)

    def add(self, name: str, script: str, folder: Path | None = None) -> Path:
        """Put a program on PATH, or into a folder."""
        file = (folder or self.pythons) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(script)
        file.chmod(0o755)
        return file

    def start(self, *arguments: str, script: Path | None = None, cwd: Path | None = None, **environment: str):
        command = [str(script or self.root / "reproduce.sh"), *arguments]
        return subprocess.Popen(
            command, cwd=cwd or self.root, env=self.environment | environment, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            # A shell's background job ignores SIGINT, and so would its children: as a terminal's job does, take it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def run(self, *arguments: str, expect: int = 0, **options) -> str:
        """Run the script; returns what it says on both streams."""
        process = self.start(*arguments, **options)
        out, error = process.communicate(timeout=30)
        assert process.returncode == expect, out + error
        return out + error

    def refused(self, *arguments: str, **options) -> str:
        """Hold the script to exit code 2 and one sentence."""
        said = self.run(*arguments, expect=2, **options)
        assert said.startswith("reproduce.sh: ") and said.count("\n") == 1, said
        return said

    def wait_for_pip(self) -> None:
        deadline = time.monotonic() + 20
        while not self.asked:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def asked(self) -> list[str]:
        return self.asked_file.read_text().splitlines() if self.asked_file.exists() else []

    def installed_once(self) -> bool:
        """Whether all of the lock was installed, and then the command was started."""
        pips = [line for line in self.asked if line.startswith("pip ")]
        return len(pips) == 3 and all(line.startswith(start) for line, start in zip(pips, INSTALLED, strict=True))


@pytest.fixture(params=["plain", 'it\'s "a" ünï [x] #1'], ids=["plain", "odd"])
def checkout(request, tmp_path) -> Checkout:
    return Checkout(tmp_path / request.param, tmp_path / "pythons")


@pytest.fixture
def plain(tmp_path) -> Checkout:
    return Checkout(tmp_path / "plain", tmp_path / "pythons")


# --- what it answers at once ------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["help", "--help", "-h"])
def test_help_names_every_profile_and_installs_nothing(plain, asked):
    start = time.monotonic()
    said = plain.run(asked)
    assert time.monotonic() - start < 1
    assert f"profiles: {' '.join(profiles.names())}\n" in said
    assert plain.run(expect=2) == said
    assert not plain.asked and not (plain.root / ".venv").exists()


@pytest.mark.parametrize(
    ("name", "hint"), [("smok", "did you mean smoke"), ("tets", "did you mean test"), ("zzz", "valid: gemma2-2b")]
)
def test_an_unknown_profile_is_refused_before_anything_is_installed(checkout, name, hint):
    assert f"unknown profile '{name}': {hint}" in checkout.refused(name)
    assert not (checkout.root / ".venv").exists()


def test_profiles_are_the_files_in_their_folder(plain):
    shutil.copy(plain.root / "harness/spec/profiles/tiny.toml", plain.root / "harness/spec/profiles/mine.toml")
    assert " mine " in plain.run("--help")
    plain.run("mine")


# --- the installation -------------------------------------------------------------------------------


def test_the_first_start_installs_the_lock_and_the_second_nothing(checkout):
    checkout.run("tiny", "--methods", "lora:r=2, a b")
    assert checkout.installed_once()
    assert checkout.asked[-1] == "-P -m floe_bench run tiny --methods lora:r=2, a b"
    said = checkout.run("smoke")
    assert len(checkout.asked) == 5
    assert "installing" not in said and said == f"from {checkout.root}/.venv/bin/python\n"


@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_another_lock_is_installed_over_the_old_one(plain, file):
    plain.run("tiny")
    (plain.root / ".venv" / "kept").touch()
    with (plain.root / file).open("a") as stream:
        stream.write("# changed\n")
    plain.asked_file.unlink()
    plain.run("tiny")
    assert plain.installed_once() and (plain.root / ".venv" / "kept").exists()


def test_a_moved_checkout_is_installed_again(plain, tmp_path):
    plain.run("tiny")
    plain.root = plain.root.rename(tmp_path / "moved")
    plain.asked_file.unlink()
    plain.run("tiny")
    assert plain.installed_once()


def test_an_installation_that_was_interrupted_begins_anew(plain):
    process = plain.start("tiny", SLOW="20")
    plain.wait_for_pip()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0 and "-P" not in plain.asked[-1]
    (plain.root / ".venv" / "half a package").touch()
    plain.asked_file.unlink()
    plain.run("tiny")
    assert plain.installed_once() and not (plain.root / ".venv" / "half a package").exists()


def test_a_half_made_environment_is_made_again(plain):
    (plain.root / ".venv" / "bin").mkdir(parents=True)
    (plain.root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")
    plain.run("tiny")
    assert plain.installed_once()


def test_an_environment_of_an_older_python_is_made_again(plain):
    plain.add("python", OLD, plain.root / ".venv" / "bin")
    plain.run("tiny")
    assert plain.installed_once()


def test_an_environment_without_pip_gets_one(plain):
    plain.add("python", PYTHON, plain.root / ".venv" / "bin")
    plain.run("tiny")
    assert plain.installed_once()
    shutil.rmtree(plain.root / ".venv")
    assert "python3-venv" in plain.run("tiny", expect=2, NO_ENSUREPIP="1")


def test_two_starts_install_once(plain):
    first = plain.start("tiny", SLOW="0.2")
    plain.wait_for_pip()
    assert "waiting" in plain.run("tiny")
    first.communicate(timeout=30)
    assert first.returncode == 0
    assert plain.installed_once() and len(plain.asked) == 5


def test_a_lock_that_nobody_holds_any_more_does_not_hinder(plain):
    folder = os.open(plain.root, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    os.close(folder)
    assert "waiting" not in plain.run("tiny")


@pytest.mark.parametrize(
    ("pip_says", "said", "goes_on"),
    [
        ("NewConnectionError: Failed to establish a new connection: Name or service not known", "with a network", True),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "mend that", False),
    ],
    ids=["network", "disk"],
)
def test_a_failed_installation_says_what_to_do(plain, pip_says, said, goes_on):
    answer = plain.run("tiny", expect=2, BROKEN_PIP=pip_says)
    assert said in answer.splitlines()[-1] and (pip_says in answer) == (not goes_on)
    assert "-P" not in plain.asked[-1]
    (plain.root / ".venv" / "whole package").touch()
    plain.asked_file.unlink()
    plain.run("tiny")
    assert plain.installed_once() and (plain.root / ".venv" / "whole package").exists() == goes_on


# --- which Python -----------------------------------------------------------------------------------


def test_an_old_python_is_passed_over_for_a_newer_one_on_path(plain):
    plain.add("python3", OLD)
    plain.add("python3.12", PYTHON)
    plain.run("tiny")
    assert plain.installed_once()


def test_a_python_that_is_too_old_is_named_with_the_one_needed(plain):
    plain.add("python3", OLD)
    assert "Python 3.11 or newer is needed, python3 is 3.9" in plain.refused("tiny")
    plain.add("python3", "#!/bin/sh\nexit 127\n")
    assert "Python 3.11 or newer is needed, and none is on PATH" in plain.refused("tiny")
    chosen = plain.add("my python", OLD)
    assert "my python is 3.9" in plain.refused("tiny", PYTHON=str(chosen))
    chosen = plain.add("my python", PYTHON)
    plain.run("tiny", PYTHON=str(chosen))


def test_an_active_environment_is_used(plain, tmp_path):
    plain.add("python", PYTHON, tmp_path / "env" / "bin")
    plain.run("tiny", VIRTUAL_ENV=str(tmp_path / "env"))
    assert plain.installed_once() and not (plain.root / ".venv").exists()


@pytest.mark.parametrize("python", [None, OLD, "#!/bin/sh\nexit 127\n"], ids=["gone", "old", "broken"])
def test_an_active_environment_that_does_not_work_is_never_touched(plain, tmp_path, python):
    if python:
        plain.add("python", python, tmp_path / "env" / "bin")
    said = plain.refused("tiny", VIRTUAL_ENV=str(tmp_path / "env"))
    assert f"{tmp_path / 'env'} has no Python 3.11 or newer" in said and "deactivate" in said
    assert (tmp_path / "env").exists() == bool(python)


def test_the_checkouts_own_environment_is_mended_when_it_is_active(plain):
    plain.add("python", OLD, plain.root / ".venv" / "bin")
    plain.run("tiny", VIRTUAL_ENV=str(plain.root / ".venv"))
    assert plain.installed_once()


def test_settings_for_other_pythons_do_not_reach_the_installation(plain):
    foreign = {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PIP_TARGET": "/nowhere", "PIP_USER": "1"}
    plain.run("tiny", **foreign)
    assert plain.installed_once() and all(line.endswith(" 0") for line in plain.asked[:3])
    plain.asked_file.unlink()
    shutil.rmtree(plain.root / ".venv")
    plain.run("tiny", PIP_INDEX_URL="http://127.0.0.1:9", PIP_CACHE_DIR="/nowhere", PIP_NO_DEPS="1")
    assert all(line.endswith(" 2") for line in plain.asked[:3])


# --- from where, and how ----------------------------------------------------------------------------


def test_it_runs_from_another_folder_through_a_link_and_by_sh(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "again"
    link.symlink_to("../link")
    (tmp_path / "link").symlink_to(checkout.root / "reproduce.sh")
    checkout.run("tiny", script=link, cwd=Path("/"), CDPATH=str(tmp_path))
    assert checkout.installed_once()
    by_sh = checkout.add("by_sh", f'#!/bin/sh\nexec sh "{tmp_path}/link" "$@"\n')
    assert checkout.run("tiny", script=by_sh) == f"from {checkout.root}/.venv/bin/python\n"


@pytest.mark.parametrize("locale", ["C", "POSIX", "xx_YY.UTF-8"])
def test_no_locale_is_needed(checkout, locale):
    said = checkout.run("tiny", LC_ALL=locale)
    assert checkout.installed_once() and f"from {checkout.root}/.venv/bin/python" in said


def test_a_checkout_that_cannot_be_written(plain, tmp_path):
    plain.root.chmod(0o555)
    if os.access(plain.root, os.W_OK):
        pytest.skip("this user writes everywhere")
    try:
        assert "cannot be written: activate a virtual environment made elsewhere" in plain.refused("tiny")
        plain.add("python", PYTHON, tmp_path / "env" / "bin")
        said = plain.run("tiny", VIRTUAL_ENV=str(tmp_path / "env"))
        assert f"from {plain.root}\n" in said  # found by PYTHONPATH: an editable install would write into it
        assert [line for line in plain.asked if "--editable" in line] == []
    finally:
        plain.root.chmod(0o755)
