"""Write to whatever the command's output is: a terminal without Greek, a pipe that somebody closes, a full disk."""

from __future__ import annotations

import errno
import io
import os
import sys

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def settle() -> None:
    """Replace the characters that the output cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def abandon() -> None:
    """Write no more: what is still buffered would fail again when Python ends."""
    if sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
