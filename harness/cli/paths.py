"""Turn what a person wrote into a path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from floe_bench.harness.errors import UsageError


def path(text: str) -> Path:
    """Return the path, with "~" for the home folder, as a shell leaves it in --option=~/folder. Raises UsageError."""
    if not text or "\0" in text:
        raise UsageError(f"a path was expected, not {text!r}")
    found = os.path.expanduser(text)  # noqa: PTH111 - Path("./~") would be the home folder too
    if found.startswith("~"):
        raise UsageError(f"{text}: there is no such user's home folder")
    try:
        os.lstat(found)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UsageError(f"{text}: no path of this system ({error.strerror})") from None
    return Path(found)
