"""The command `floe-bench`. Heavy libraries load only where a command computes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import profiles, registry
from harness.contracts import Cell
from harness.errors import UsageError
from harness.settings import Settings

USAGE_ERROR, FAILED, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except UsageError as error:
        print(f"floe-bench: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(
            "floe-bench: interrupted; what is finished is kept, run the same command to go on",
            file=sys.stderr,
        )
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="floe-bench",
        description="Reproduce and judge FLoE (arXiv 2506.00495) against the methods it is held against.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="methods, mixes, evaluations, experiments and profiles")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(command=_list)
    for name, command, text in (
        ("plan", _plan, "what a run would do and cost, without weights or network"),
        ("run", _run, "run what is not done of a profile's grid, then write its tables"),
        ("report", _report, "write the tables from the records alone"),
    ):
        sub = commands.add_parser(name, help=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        sub.add_argument("profile", metavar="PROFILE", help=f"one of: {', '.join(profiles.names())}")
        sub.add_argument("--methods", metavar="A,B", help="instead of the profile's; options as lora:r=16")
        sub.add_argument("--mixes", metavar="X,Y", help="instead of the profile's")
        sub.add_argument("--seeds", metavar="N", type=int, help="how many seeds")
        sub.add_argument("--experiment", metavar="NAME", default="main", help="which experiment (default: main)")
        sub.add_argument("--results", metavar="DIR", type=Path, default=Path("results"), help="default: ./results")
        sub.add_argument("--data-dir", metavar="DIR", help="read data from this folder (or FLOE_DATA_DIR)")
        sub.add_argument("--model-path", metavar="DIR", help="read the weights from this folder")
        sub.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any other setting")
        if name == "plan":
            sub.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """The profile with the command line over it, every name in it known."""
    overrides: dict[str, Any] = {}
    for key in ("methods", "mixes", "seeds"):
        if getattr(options, key) is not None:
            overrides[key] = getattr(options, key)
    if options.data_dir is not None:
        overrides |= {"data.source": "folder", "data.path": options.data_dir}
    if options.model_path is not None:
        overrides["model.path"] = options.model_path
    overrides |= profiles.parse_assignments(options.set)
    settings = profiles.load(options.profile, overrides)
    if settings.data.source == "hub" and "data.source" not in overrides and os.environ.get("FLOE_DATA_DIR"):
        overrides |= {"data.source": "folder", "data.path": os.environ["FLOE_DATA_DIR"]}
        settings = profiles.load(options.profile, overrides)
    return _checked(settings)


def _checked(settings: Settings) -> Settings:
    """Method names in canonical form. Raises UsageError for an unknown mix, evaluation, method or option."""
    methods = tuple(dict.fromkeys(registry.parse_method(name).name for name in settings.methods))
    for mix in (*settings.mixes, *settings.eval.nll_mixes):
        registry.find("mix", mix)
    for name in settings.eval.evals:
        registry.find("evaluation", name)
    if settings.eval.primary not in settings.eval.evals:
        raise UsageError(
            f"setting eval.primary = '{settings.eval.primary}' is not among eval.evals: "
            + ", ".join(settings.eval.evals)
        )
    return settings.model_copy(update={"methods": methods})


def _grid(options: argparse.Namespace) -> tuple[Settings, Any, list[Cell]]:
    experiment = registry.find("experiment", options.experiment).load()
    settings = _settings(options)
    return settings, experiment, experiment.cells(settings)


# --- commands ---------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    kinds: tuple[registry.Kind, ...] = ("method", "mix", "evaluation", "experiment")
    listing: dict[str, list[dict[str, Any]]] = {
        kind: [
            {"id": p.id, "description": p.description, "options": p.options, "origin": p.origin}
            for p in registry.plugins(kind).values()
        ]
        for kind in kinds
    }
    listing["profile"] = [
        {
            "id": name,
            "description": profiles.load(name).description,
            "options": {},
            "origin": f"harness/profiles/{name}.toml",
        }
        for name in profiles.names()
    ]
    if options.json:
        print(json.dumps(listing, indent=2))
        return 0
    for kind, entries in listing.items():
        print("mixes" if kind == "mix" else f"{kind}s")
        width = max(len(entry["id"]) for entry in entries)
        for entry in entries:
            print(f"  {entry['id']:{width}}  {entry['description']}  [{entry['origin']}]")
            if entry["options"]:
                text = ", ".join(f"{key}: {text}" for key, text in entry["options"].items())
                print(f"  {'':{width}}  options: {text}")
        print()
    return 0


def _plan(options: argparse.Namespace) -> int:
    settings, _, cells = _grid(options)
    from harness.quiet import quiet_libraries

    quiet_libraries()
    from harness import plan_table
    from harness.planning import plan_cell
    from harness.store import Store
    from harness.workbench import Workbench

    bench = Workbench(settings, Store(options.results, options.profile), progress=lambda text: None)
    planned = [plan_cell(bench.of(cell), cell) for cell in cells]
    base = bench.base_parameters
    print(plan_table.to_json(base, planned) if options.json else plan_table.to_text(settings, base, planned))
    return 0


def _run(options: argparse.Namespace) -> int:
    settings, experiment, cells = _grid(options)
    from harness.quiet import quiet_libraries
    from harness.store import Store

    store = Store(options.results, options.profile)
    with store.exclusively():
        quiet_libraries()
        from harness.grid import run_grid
        from harness.progress import Progress
        from harness.workbench import Workbench

        with Progress() as progress:
            outcome = run_grid(Workbench(settings, store, progress.update), cells, progress)
        _write_tables(experiment, store, settings, cells, outcome.keys)
    print(f"{outcome.ran} cells run, {outcome.skipped} already done, {outcome.failed} failed", file=sys.stderr)
    return FAILED if outcome.failed else 0


def _report(options: argparse.Namespace) -> int:
    settings, experiment, cells = _grid(options)
    from harness.store import Store

    store = Store(options.results, options.profile)
    store.ensure_writable()
    _write_tables(experiment, store, settings, cells)
    return 0


def _write_tables(
    experiment: Any, store: Any, settings: Settings, cells: Sequence[Cell], keys: dict[Cell, str] | None = None
) -> None:
    from harness.report import tables
    from harness.results import StoredResults

    results = StoredResults(store, settings, cells, keys)
    print(tables.write(experiment.tables(results), store.folder / "tables"))
    print(f"tables: {store.folder / 'tables'}; {len(results.records)} of {len(cells)} cells finished", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
