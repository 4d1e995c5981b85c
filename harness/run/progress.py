"""What runs and how far: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from floe_bench.harness.files import writing

PLAIN_INTERVAL_S = 5.0


class Progress:
    """`update` shows passing state; `say` prints a line that stays."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.prefix = ""
        self._status = self.console.status("") if self.console.is_terminal else None
        self._last_plain = 0.0

    def __enter__(self) -> Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def update(self, text: str) -> None:
        """Show `text` after the current prefix; without a terminal at most one line every few seconds."""
        line = f"{self.prefix}  {text}".strip()
        if self._status:
            self._status.update(escape(line))
        elif time.monotonic() - self._last_plain >= PLAIN_INTERVAL_S:
            self._last_plain = time.monotonic()
            self._print(line)

    def say(self, text: str) -> None:
        """Print a line that stays. Raises StorageError where it is logged to a file that has no room."""
        self._print(text)

    def _print(self, line: str) -> None:
        with writing(Path("the log on standard error")):
            self.console.print(line, markup=False)
