"""The errors that a user can mend, and the one way of suggesting a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad input: the message is one sentence for the user; the command exits with code 2."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An unknown name, with the nearest valid ones (or all of them where none is near)."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names) or 'none'}"
    return UsageError(f"unknown {kind} '{name}': {hint}")
