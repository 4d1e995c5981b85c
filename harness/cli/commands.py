"""What each command of `floe-bench` does with its options; returns the exit code.

Heavy libraries load inside the functions, so that help and listing answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.errors import UsageError
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings

if TYPE_CHECKING:
    from floe_bench.harness.contracts.judgement import Finding
    from floe_bench.harness.store.folder import Store

OK, FAILED = 0, 1
ALL = "all"


# --- the grid that the options name -----------------------------------------------------------------


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


def _experiments(options: argparse.Namespace) -> list[registry.Plugin]:
    """The experiments that --experiment names; every one for "all", or where it names none."""
    if options.experiment in (None, ALL):
        return list(registry.plugins("experiment").values())
    names = dict.fromkeys(name for name in options.experiment.split(",") if name)
    return [registry.find("experiment", name) for name in names]


def _grid(options: argparse.Namespace) -> tuple[Settings, list[Cell]]:
    """The settings, and the cells of all experiments named, each once."""
    experiments = _experiments(options)
    settings = _settings(options)
    return settings, list(dict.fromkeys(cell for plugin in experiments for cell in plugin.load().cells(settings)))


# --- commands ---------------------------------------------------------------------------------------


def list_(options: argparse.Namespace) -> int:
    """What there is: plugins with their options, and profiles."""
    listing: dict[str, list[dict[str, Any]]] = {
        kind: [
            {"id": p.id, "description": p.description, "options": p.options, "origin": p.origin}
            for p in registry.plugins(kind).values()
        ]
        for kind in registry.PACKAGES
    }
    listing["profile"] = [
        {
            "id": name,
            "description": profiles.load(name).description,
            "options": {},
            "origin": f"harness/spec/profiles/{name}.toml",
        }
        for name in profiles.names()
    ]
    if options.json:
        print(json.dumps(listing, indent=2))
        return OK
    for kind, entries in listing.items():
        print("mixes" if kind == "mix" else f"{kind}s")
        width = max(len(entry["id"]) for entry in entries)
        for entry in entries:
            print(f"  {entry['id']:{width}}  {entry['description']}  [{entry['origin']}]")
            if entry["options"]:
                text = ", ".join(f"{key}: {text}" for key, text in entry["options"].items())
                print(f"  {'':{width}}  options: {text}")
        print()
    return OK


def plan(options: argparse.Namespace) -> int:
    """What a run would do and cost."""
    settings, cells = _grid(options)
    from floe_bench.harness.cli.quiet import quiet_libraries

    quiet_libraries()
    from floe_bench.harness.cli import plan_table
    from floe_bench.harness.run.dry_run import plan_cell
    from floe_bench.harness.run.session import Session
    from floe_bench.harness.store.folder import Store

    bench = Session(settings, Store(options.results, options.profile), progress=lambda text: None)
    planned = [plan_cell(bench.of(cell), cell) for cell in cells]
    base = bench.base_parameters
    print(plan_table.to_json(base, planned) if options.json else plan_table.to_text(settings, base, planned))
    return OK


def run(options: argparse.Namespace) -> int:
    """Run what is not done, then write the tables; FAILED where a cell failed."""
    settings, cells = _grid(options)
    from floe_bench.harness.cli.quiet import quiet_libraries
    from floe_bench.harness.store.folder import Store

    store = Store(options.results, options.profile)
    with store.exclusively():
        quiet_libraries()
        from floe_bench.harness.run.grid import run_grid
        from floe_bench.harness.run.progress import Progress
        from floe_bench.harness.run.session import Session

        with Progress() as progress:
            outcome = run_grid(Session(settings, store, progress.update), cells, progress)
        for plugin in _experiments(options):
            _write_experiment(store, plugin, settings, outcome.records, outcome.keys)
    print(f"{outcome.ran} cells run, {outcome.skipped} already done, {outcome.failed} failed", file=sys.stderr)
    return FAILED if outcome.failed else OK


def report(options: argparse.Namespace) -> int:
    """Write tables, checks and claims from the records alone; with --strict FAILED where a check fired."""
    experiments = _experiments(options)
    settings = _settings(options)
    from floe_bench.harness.report import build, tables
    from floe_bench.harness.store.folder import Store

    store = Store(options.results, options.profile)
    store.ensure_writable()
    records = store.records()
    if options.experiment in (None, ALL):
        made, findings = build.everything(store, settings, records)
        _write(store, made)
        tables.keep_only(made, store.folder / "tables")
    else:
        findings = [f for plugin in experiments for f in _write_experiment(store, plugin, settings, records)]
    if not records:
        print(f"{store.folder} holds no record: `floe-bench run {options.profile}` makes some", file=sys.stderr)
        return FAILED if options.strict else OK
    return FAILED if options.strict and findings else OK


def _write_experiment(
    store: Store,
    plugin: registry.Plugin,
    settings: Settings,
    records: Sequence[Record],
    keys: dict[Cell, str] | None = None,
) -> list[Finding]:
    """Write and print an experiment's tables, and say which checks fired on it."""
    from floe_bench.harness.report import build

    evidence = build.experiment(plugin, store, settings, keys, records)
    findings = build.findings_in(evidence)
    _write(store, evidence.tables)
    for finding in findings:
        print(f"check {finding.number}, {finding.check}: {finding.message}", file=sys.stderr)
    results = evidence.results
    print(f"{plugin.id}: {len(results.records)} of {len(results.cells)} cells finished", file=sys.stderr)
    return findings


def _write(store: Store, made: Sequence[Table]) -> None:
    from floe_bench.harness.report import tables

    print(tables.write(made, store.folder / "tables"))
    print(f"tables: {store.folder / 'tables'}", file=sys.stderr)


def check(options: argparse.Namespace) -> int:
    """Hold the current run against its expectation; FAILED for a regression. With --update write a new expectation."""
    settings, cells = _grid(options)
    from floe_bench.harness.files import write_text
    from floe_bench.harness.gate import check, text, verdicts
    from floe_bench.harness.store.folder import Store

    store = Store(options.results, options.profile)
    if options.update:
        path = options.expected or store.folder / check.FILE
        print(check.update(store, settings, _keys(settings, store, cells), path))
        print(f"expectation: {path}", file=sys.stderr)
        return OK
    path = check.expectation_file(store, options.expected)
    findings = check.check(store, settings, _keys(settings, store, cells), path)
    summary = text.to_markdown(f"check {options.profile}", findings)
    if options.markdown:
        write_text(options.markdown, summary)
    if options.junit:
        write_text(options.junit, text.to_junit(options.profile, findings))
    print(summary)
    return FAILED if verdicts.regressions(findings) else OK


def compare(options: argparse.Namespace) -> int:
    """Two runs, or two methods of one, paired over items; a Markdown table."""
    from floe_bench.harness.gate import comparing
    from floe_bench.harness.report import tables

    if (options.b is None) == (options.methods is None):
        raise UsageError("compare wants a second folder, or two methods of the first with --methods X,Y")
    table = (
        comparing.methods(options.a, options.methods)
        if options.methods is not None
        else comparing.runs(options.a, options.b)
    )
    print(tables.to_markdown(table.title, table.view, table.notes))
    return OK


def show(options: argparse.Namespace) -> int:
    """Print a cell's record."""
    profiles.load(options.profile)
    from floe_bench.harness.cli import inspecting
    from floe_bench.harness.store.folder import Store

    store = Store(options.results, options.profile)
    record = inspecting.find_record(store, options.cell)
    name = store.record_path(record.cell, record.key).name
    print(record.model_dump_json(indent=2) if options.json else inspecting.to_text(record, name))
    return OK


def why(options: argparse.Namespace) -> int:
    """Print why a cell is or is not done."""
    settings, cells = _grid(options)
    from floe_bench.harness.cli import inspecting
    from floe_bench.harness.store.folder import Store

    cell = inspecting.find_cell(cells, options.cell)
    store = Store(options.results, options.profile)
    print(inspecting.why(store, cell, _identities(settings, store, [cell])[cell]))
    return OK


def bench(options: argparse.Namespace) -> int:
    """Run benchmarks, one after the other; each prints its table and writes its record."""
    if options.table:
        from floe_bench.harness.benchmarks import _runner

        print(_runner.table_of_records(options.results))
        return OK
    data_dir = options.data_dir or (Path(os.environ["FLOE_DATA_DIR"]) if os.environ.get("FLOE_DATA_DIR") else None)
    for name, path in (("--data-dir", data_dir), ("--against", options.against)):
        if path is not None and not path.is_dir():
            raise UsageError(f"{name} {path} is not a folder")
    chosen = [registry.find("benchmark", name) for name in dict.fromkeys(options.names)]
    from floe_bench.harness.cli.quiet import quiet_libraries

    quiet_libraries()
    from floe_bench.harness.benchmarks import Bench, _runner
    from floe_bench.harness.run.progress import Progress

    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        context = Bench(Path(folder), progress.update, options.repeats, data_dir, options.against)
        for plugin in chosen or registry.plugins("benchmark").values():
            if reason := _runner.unavailable(plugin, context):
                if chosen:
                    raise UsageError(f"benchmark {plugin.id} needs {reason}")
                progress.say(f"{plugin.id}: left out, it needs {reason}")
                continue
            progress.prefix = plugin.id
            measured = _runner.run(plugin, context, options.results, progress.say)
            print(_runner.to_text(f"{plugin.id}: {plugin.description}", measured), flush=True)
    return OK


def _identities(settings: Settings, store: Store, cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
    """What each cell's key is the digest of, now. Needs no weights where they lie in a package or are random."""
    from floe_bench.harness.cli.quiet import quiet_libraries

    quiet_libraries()
    from floe_bench.harness.run.identity import identity_of
    from floe_bench.harness.run.session import Session

    bench = Session(settings, store, progress=lambda text: None)
    return {cell: identity_of(bench.of(cell), cell) for cell in cells}


def _keys(settings: Settings, store: Store, cells: Sequence[Cell]) -> dict[Cell, str]:
    from floe_bench.harness.files import digest

    return {cell: digest(identity) for cell, identity in _identities(settings, store, cells).items()}
