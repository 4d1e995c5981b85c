"""Read a command line. What it gets wrong is a UsageError, as everything is that a person gets wrong."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NoReturn

from floe_bench.harness.errors import UsageError, unknown


class Parser(argparse.ArgumentParser):
    """Raise UsageError where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def parse(arguments: Sequence[str], commands: Mapping[str, tuple[ModuleType, str]]) -> argparse.Namespace:
    """Return the options of one of the commands, with its function as `command`.

    commands: name -> (module with `add_arguments` and `command`, description).

    Raises UsageError, with the nearest names, for a command or an option that there is not.
    """
    parser = Parser(
        prog="floe-bench",
        description="Reproduce and judge FLoE (arXiv 2506.00495) against the methods it is held against.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    usages: dict[str, str] = {}
    for name, (module, text) in commands.items():
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=module.command)
        module.add_arguments(sub)
        usages[name] = sub.format_usage()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        raise unknown("command", arguments[0], commands)
    options, rest = parser.parse_known_args(arguments)
    if rest:
        option = rest[0].partition("=")[0]
        if option.startswith("--"):
            raise unknown("option", option, re.findall(r"--[a-z][a-z-]*", usages[arguments[0]]))
        raise UsageError(f"nothing is expected at {rest[0]!r}; see `floe-bench {arguments[0]} --help`")
    return options
