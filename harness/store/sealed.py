"""Write records and stages as JSON with a digest of their content; read only what is still as it was written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from floe_bench.harness.contracts.record import SCHEMA_VERSION
from floe_bench.harness.files import digest, parse_json, read_json, write_json
from floe_bench.harness.spec.base import Data
from floe_bench.harness.store.upgrade import upgraded

T = TypeVar("T", bound=Data)

DIGEST = "digest"
"""The key of the digest of all other content. It came with version 4; older files are read without."""
FIRST_SEALED = 4


class Broken(Exception):
    """A record or stage is not as it was written. The message says how, without the path."""


def write_sealed(path: Path, content: Data) -> None:
    """Write the content, and a digest of it, atomically.

    Raises ValueError for content that could not be read back, such as NaN; StorageError where the disk refuses.
    """
    body = parse_json(json.dumps(content.model_dump(mode="json")))
    write_json(path, body | {DIGEST: digest(body)})


def read_sealed(kind: type[T], path: Path) -> T:
    """Read the content, in the current version's form. Raises Broken."""
    require_file(path)
    try:
        return kind.model_validate(_current(_json(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Broken(f"{where}: {first['msg']}") from None


def require_file(path: Path) -> None:
    """Raise Broken where there is no file, but nothing, a folder, a pipe or a link to nowhere."""
    try:
        found = path.is_file()
    except OSError as error:
        raise Broken(f"cannot be read ({error.strerror})") from None
    if not found:
        raise Broken("is no file" if os.path.lexists(path) else "is gone")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except OSError as error:
        raise Broken(f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Broken(f"is cut or no JSON ({error})") from None
    if not isinstance(content, dict) or type(content.get("schema_version")) is not int:
        raise Broken("is nothing that floe-bench wrote")
    return content


def _current(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content in the current version's form, without its digest. Raises Broken."""
    version = content["schema_version"]
    if version >= FIRST_SEALED:
        written = content.pop(DIGEST, None)
        if version <= SCHEMA_VERSION and written != digest(content):
            raise Broken("was altered after it was written")
    try:
        current = upgraded(content, SCHEMA_VERSION)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise Broken(f"is no whole file of schema version {version}") from None
    if current is None:
        raise Broken(
            f"is of schema version {version}, but this program reads {SCHEMA_VERSION}: use the release that wrote it"
        )
    return current
