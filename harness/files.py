"""Atomic file writes, strict reading of JSON, content digests and the places of files."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from floe_bench.harness.errors import StorageError

PACKAGE = Path(__file__).absolute().parent.parent
"""The folder of the package `floe_bench`. It holds harness/, baselines/ and tasks/."""

# --- places ---------------------------------------------------------------------------------------


def checkout() -> Path | None:
    """Return the root of the checkout that the code runs from. Return None for an installed wheel."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


@cache
def module_file(module: str) -> Path | None:
    """Return the source file of a module without importing it. Return None where there is none, as for a built-in."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and Path(spec.origin).is_file() else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder).joinpath(*rest)
        for file in (path / "__init__.py", path.with_name(path.name + ".py")):
            if file.is_file():
                return file
    return None


# --- writing --------------------------------------------------------------------------------------

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

OF_LIBRARIES = re.compile(r"\(os error (?P<number>\d+)\)|inline_container\.cc|iostream")
"""How safetensors and torch word what the system refused. Neither raises OSError, and torch gives no reason."""


@contextmanager
def writing(path: Path, advice: str | None = None) -> Iterator[None]:
    """Say in one sentence what the disk refuses within the block. Raises StorageError, which names `path`.

    advice: what to do where no other place can be named by an option of the command.
    """
    try:
        yield
    except Exception as error:  # safetensors and torch raise errors of their own for what the system refuses
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise _storage_error(path, "written", *refusal, advice) from error


def _refusal(error: Exception) -> tuple[int | None, str] | None:
    """Return number and text of what the system refused; None for an error of another kind."""
    if isinstance(error, OSError):
        return error.errno, error.strerror or str(error)
    found = OF_LIBRARIES.search(str(error))
    if found is None:
        return None
    number = int(found["number"]) if found["number"] else None
    return number, os.strerror(number) if number else "the disk took only a part of it"


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return the error of a path that the disk does not let us read."""
    return _storage_error(path, "read", error.errno, error.strerror or str(error))


def _storage_error(path: Path, done: str, number: int | None, reason: str, advice: str | None = None) -> StorageError:
    return StorageError(
        f"{path} cannot be {done} ({reason}): {advice or _advice(number)}, and run the same command again; "
        "what is finished is kept"
    )


def _advice(number: int | None) -> str:
    if number in NO_ROOM:
        return "make room"
    if number in FORBIDDEN:
        return "allow it or choose another folder"
    return "see that the disk is there and has room"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`. It replaces `path` only if the block succeeds.

    Raises StorageError where the disk refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        temporary.touch(exist_ok=False)
        permissions = temporary.stat().st_mode
        try:
            yield temporary
            temporary.chmod(permissions)  # as the umask has it; libraries write for one user alone
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, advice: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`. It becomes `path` if the block succeeds, and is dropped otherwise.

    Where somebody else has made `path` meanwhile, theirs stays. Raises StorageError, with the advice, where the disk
    refuses.
    """
    with writing(path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        temporary.mkdir()
        try:
            yield temporary
            share(temporary)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{uuid4().hex[:12]}{path.suffix}")


def share(folder: Path) -> None:
    """Let those read a folder's files who may read the folder. safetensors writes for one user alone."""
    permissions = folder.stat().st_mode & 0o666
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(permissions)


ASIDE = ".broken"


def set_aside(path: Path) -> Path:
    """Give what is broken a name that no reader takes, and return it. Raises StorageError."""
    numbers = ("", *(f"-{number}" for number in range(2, 10_000)))
    names = (path.with_name(f"{path.name}{ASIDE}{number}") for number in numbers)
    aside = next(name for name in names if not os.path.lexists(name))
    with writing(aside):
        path.rename(aside)
    return aside


def write_bytes(path: Path, content: bytes) -> str:
    """Write bytes atomically. Return their sha256, in hex, as `file_digest` does of the file."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with sorted keys, refusing NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


# --- reading --------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Read a file as `parse_json` does. Raises OSError where it cannot be read, ValueError as `parse_json`."""
    return parse_json(path.read_bytes().decode("utf-8"))


def parse_json(text: str) -> Any:
    """Return what the text says, where it says one thing only.

    Raises ValueError where it is no JSON, names a key twice, or holds half a character or a number that is not finite
    or beyond 64 bits.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite, parse_int=_int64
        )
        if "\\u" in text:  # only an escape can be half a character, which is then no UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _int64(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a whole number is beyond 64 bits")
    return number


# --- digests --------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SHA256 = re.compile(r"[0-9a-f]{64}")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def differing(folder: Path, digests: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first file in `folder` that is not the one of its sha256, or None."""
    for name, written in digests.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"its {name} {'is no file' if os.path.lexists(path) else 'is gone'}"
            if file_digest(path) != written:
                return f"its {name} was cut or altered after it was written"
        except OSError as error:
            return f"its {name} cannot be read ({error.strerror})"
    return None


def file_digests(folder: Path, part: str = ".") -> dict[str, str]:
    """Return path within `folder` -> sha256 of every file under its subfolder `part`, or of all files."""
    files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


ELSEWHERE = "make room there, or point XDG_CACHE_HOME at another folder"
"""What to do where the cache cannot be written."""


def cache_folder() -> Path:
    """Return the folder for derived copies that outlive a run. Honours XDG_CACHE_HOME, if it is absolute as XDG has it.

    Raises StorageError where there is no home folder to hold it.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "floe-bench"
    except RuntimeError:
        raise StorageError("there is no home folder to keep copies in: point XDG_CACHE_HOME at a folder") from None


def remembered_digest(path: Path) -> str:
    """Return `file_digest(path)`, cached on disk while the file's size and modification time stay the same.

    A cache that is broken or cannot be written costs the time to read the file, and nothing else.
    """
    stat = path.stat()
    key = digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    try:
        memo = cache_folder() / "digests" / key
    except StorageError:
        return file_digest(path)
    try:
        remembered = memo.read_text(encoding="ascii")
    except (OSError, ValueError):
        remembered = ""
    if SHA256.fullmatch(remembered):
        return remembered
    found = file_digest(path)
    with suppress(StorageError):
        write_text(memo, found)
    return found
