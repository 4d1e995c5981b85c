"""The command `floe-bench run tiny` on one mix, in this process or as one of its own."""

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from floe_bench.harness.cli.main import main

ROOT = Path(__file__).parents[1]

# What a run's table says besides times and memory, which no two runs share.
EXACT = (
    "mix", "method", "seeds", "accuracy", "nll", "layers", "r", "forgetting", "trainable_parameters",
    "adapter_bytes", "training_tokens", "planning_tokens",
)  # fmt: skip

NLL_ALONE = ("--set", "eval.evals=validation_nll", "--set", "eval.primary=validation_nll")
"""For what is not about scores: the questions take longer than all the rest."""


def command(results: Path, *arguments: str) -> list[str]:
    """`run`, as a process of its own."""
    return [sys.executable, "-m", "floe_bench", *_arguments(results, *arguments)]


def run(results: Path, *arguments: str, expect: int = 0) -> str:
    """Run the command here, where the libraries are loaded; returns what it says on stderr."""
    said = io.StringIO()
    with libraries_as_they_were(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main(_arguments(results, *arguments))
    assert code == expect, said.getvalue()
    return said.getvalue()


def forked(*arguments: str) -> tuple[int, str]:
    """Run the command in a process of its own that has the libraries loaded; returns exit code and stderr."""
    with tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            os.dup2(stderr.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - pytest's own catch them
            code = 1
            try:
                code = main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        stderr.seek(0)
        return os.waitstatus_to_exitcode(status), stderr.read().decode()


def _arguments(results: Path, *arguments: str) -> list[str]:
    return ["run", "tiny", "--mixes", "dolly", "--results", str(results), *arguments]


@contextlib.contextmanager
def libraries_as_they_were() -> Iterator[None]:
    """Put back what the command sets once for its process: environment and loudness of other libraries."""
    lm_eval, transformers = logging.getLogger("lm_eval"), sys.modules.get("transformers.utils.logging")
    level = lm_eval.level
    verbosity, bars = (transformers.get_verbosity(), transformers.is_progress_bar_enabled()) if transformers else (0, 0)
    with patch.dict(os.environ):
        yield
    lm_eval.setLevel(level)
    if transformers:
        transformers.set_verbosity(verbosity)
        (transformers.enable_progress_bar if bars else transformers.disable_progress_bar)()


def table(results: Path) -> list[dict]:
    rows = json.loads((results / "tiny" / "tables" / "main.json").read_text())["rows"]
    return [{key: row[key] for key in EXACT} for row in rows]
