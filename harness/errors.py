"""Errors that a user can mend, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input from the user. The message is one sentence; the command exits with code 2."""


class StorageError(Exception):
    """The disk refused to write or to read. The message is one sentence; the command exits with code 3."""


LONGEST_LINE = 1200
"""Characters of a message. Paths and names that people give may be of any length."""


def on_one_line(text: str) -> str:
    """Return the text with control characters as escapes, and without its middle where it is too long."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} … {line[-half:]}"


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for an unknown name. It suggests the nearest valid names, or lists all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} '{name}': {hint}")
