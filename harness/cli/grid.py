"""The grid that a command is asked for: read from the options once, every name in it known."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floe_bench.harness import registry
from floe_bench.harness.cli.paths import path
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.errors import UsageError
from floe_bench.harness.model.targets import with_own_feed_forward
from floe_bench.harness.registry import Plugin
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store

ALL = "all"


@dataclass(frozen=True)
class Grid:
    """A profile's settings with the command line over them, the experiments asked for, and the results folder.

    every: whether all experiments are meant, and not those of a list that happens to be whole.
    """

    profile: str
    settings: Settings
    experiments: tuple[Plugin, ...]
    every: bool
    store: Store

    @property
    def cells(self) -> list[Cell]:
        """The cells of all experiments, each once."""
        cells = (cell for experiment in self.experiments for cell in experiment.load().cells(self.settings))
        return list(dict.fromkeys(cells))


def add_results(sub: argparse.ArgumentParser) -> None:
    """Add the option that names the results folder."""
    sub.add_argument("--results", metavar="DIR", type=path, default=Path("results"), help="default: ./results")


def add_profile(sub: argparse.ArgumentParser) -> None:
    """Add what names a profile and its results."""
    sub.add_argument("profile", metavar="PROFILE", help=f"one of: {', '.join(profiles.names())}")
    add_results(sub)


def add_grid(sub: argparse.ArgumentParser) -> None:
    """Add what names a grid of cells, and their settings."""
    add_profile(sub)
    sub.add_argument("--methods", metavar="A,B", help="instead of the profile's; options as lora:r=16")
    sub.add_argument("--mixes", metavar="X,Y", help="instead of the profile's")
    sub.add_argument("--seeds", metavar="N", type=int, help="how many seeds")
    sub.add_argument("--experiment", metavar="A,B", default="main", help="which experiments, or all (default: main)")
    sub.add_argument("--data-dir", metavar="DIR", type=path, help="read data from this folder (or FLOE_DATA_DIR)")
    sub.add_argument("--model-path", metavar="DIR", type=path, help="read the weights from this folder")
    sub.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any other setting")


def resolve(options: argparse.Namespace) -> Grid:
    """Return the grid that the options name. Raises UsageError for whatever in them is unknown."""
    every = options.experiment in (None, ALL)
    experiments = _experiments(None if every else options.experiment)
    return Grid(options.profile, _settings(options), experiments, every, Store(options.results, options.profile))


def _experiments(names: str | None) -> tuple[Plugin, ...]:
    """The experiments of that list; every one for None."""
    if names is None:
        return tuple(registry.plugins("experiment").values())
    return tuple(registry.find("experiment", name) for name in dict.fromkeys(names.split(",")) if name)


def _settings(options: argparse.Namespace) -> Settings:
    """The profile with the command line over it."""
    overrides: dict[str, Any] = {}
    for key in ("methods", "mixes", "seeds"):
        if getattr(options, key) is not None:
            overrides[key] = getattr(options, key)
    if options.data_dir is not None:
        overrides |= {"data.source": "folder", "data.path": str(options.data_dir)}
    if options.model_path is not None:
        overrides["model.path"] = str(options.model_path)
    overrides |= profiles.parse_assignments(options.set)
    settings = profiles.load(options.profile, overrides)
    if settings.data.source == "hub" and "data.source" not in overrides and os.environ.get("FLOE_DATA_DIR"):
        overrides |= {"data.source": "folder", "data.path": str(path(os.environ["FLOE_DATA_DIR"]))}
        settings = profiles.load(options.profile, overrides)
    return _checked(settings if "adapter.target_modules" in overrides else with_own_feed_forward(settings))


def _checked(settings: Settings) -> Settings:
    """Method names in canonical form. Raises UsageError for an unknown mix, evaluation, method or option."""
    methods = tuple(dict.fromkeys(registry.parse_method(name).name for name in settings.methods))
    for mix in settings.eval.nll_mixes:
        registry.find("mix", mix)
    for mix in settings.mixes:
        read = getattr(registry.find("mix", mix).load(), "PARTS", (mix,))
        unread = [part for part in read if part not in settings.eval.nll_mixes]
        if unread and "validation_nll" in settings.eval.evals:
            raise UsageError(
                f"mix '{mix}' is trained on, but eval.nll_mixes leaves out {', '.join(unread)}: add it, or there is no "
                "validation NLL of the cells' own data"
            )
    for name in settings.eval.evals:
        registry.find("evaluation", name)
    if settings.eval.primary not in settings.eval.evals:
        raise UsageError(
            f"setting eval.primary = '{settings.eval.primary}' is not among eval.evals: "
            + ", ".join(settings.eval.evals)
        )
    return settings.model_copy(update={"methods": methods})
