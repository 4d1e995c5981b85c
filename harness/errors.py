"""Errors that a user can mend, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input from the user. The message is one sentence; the command exits with code 2."""


class StorageError(Exception):
    """The disk refused to write or to read. The message is one sentence; the command exits with code 3."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for an unknown name. It suggests the nearest valid names, or lists all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} '{name}': {hint}")
