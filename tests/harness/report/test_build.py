"""Tables, checks and claims from records alone: the commands report and run, over several experiments."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from floe_bench.harness.cli.main import main as floe_bench
from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.report import build
from floe_bench.harness.report.checking import all_checks
from floe_bench.harness.report.judging import judges
from floe_bench.harness.report.tables import to_markdown
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store

ROOT = Path(__file__).parents[3]

OPTIONS = [
    "--methods", "base,lora", "--mixes", "dolly", "--set", "study.layer_fractions=0.5,1.0",
    "--set", "eval.evals=validation_nll", "--set", "eval.primary=validation_nll", "--set", "eval.nll_mixes=dolly",
]  # fmt: skip
EXPERIMENTS = ("main", "layer_fraction")
OF_EXPERIMENTS = {
    "main", "main_comparison", "layer_fraction", "layer_fraction_steps", "layer_fraction_memory",
}  # fmt: skip
FINDING = Finding("a score at chance", ("dolly / base / seed 0",), "at_chance", 6)


def settings_of_options() -> Settings:
    """The settings that `OPTIONS` name."""
    overrides = {"methods": ["base", "lora"], "mixes": ["dolly"]} | profiles.parse_assignments(
        value for flag, value in pairwise(OPTIONS) if flag == "--set"
    )
    return profiles.load("tiny", overrides)


def command(name: str, results: Path, *more: str) -> int:
    return floe_bench([name, "tiny", *OPTIONS, "--results", str(results), *more])


def written(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "tiny" / "tables").iterdir()}


def ids(results: Path) -> set[str]:
    return {Path(name).stem for name in written(results)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A run of two experiments."""
    folder = tmp_path_factory.mktemp("results")
    assert command("run", folder, "--experiment", ",".join(EXPERIMENTS)) == 0
    return folder


@pytest.fixture
def results(ran, tmp_path) -> Path:
    """A copy of the run, without its tables."""
    shutil.copytree(ran, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "tiny" / "tables")
    return tmp_path / "copy"


# --- what a report holds ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_writes_the_tables_of_every_experiment_named_and_runs_shared_cells_once(ran, capsys):
    assert ids(ran) == OF_EXPERIMENTS
    assert command("run", ran, "--experiment", "layer_fraction,main,layer_fraction") == 0
    error = capsys.readouterr().err
    assert "0 cells run, 4 already done, 0 failed" in error
    assert error.count("main: 2 of 2 cells finished") == error.count("layer_fraction: 2 of 2 cells finished") == 1


@pytest.mark.slow
def test_a_report_holds_every_experiment_with_records_and_checks_and_claims(ran, results):
    assert command("report", results) == 0
    assert ids(results) == OF_EXPERIMENTS | {"checks", "claims"}
    run_wrote, report_wrote = written(ran), written(results)
    assert all(report_wrote[name] == content for name, content in run_wrote.items())
    claims = json.loads(report_wrote["claims.json"])["rows"]
    records = {record.key for record in Store(results, "tiny").records()}
    behind = {row["claim"]: set(row["records"].split()) for row in claims}
    assert len(behind) == 11 and behind[6] == behind[10] and len(behind[6]) == 2 and behind[6] < records
    with_records = {1} | {
        judge.claim.number for judge in judges() if judge.claim.experiment == "layer_fraction"
    }  # 1: of base
    assert {row["claim"] for row in claims if row["verdict"] != "not run"} == with_records
    assert all(row["verdict"] == "underpowered" for row in claims if row["claim"] in with_records)


@pytest.mark.slow
def test_reports_of_the_same_records_are_the_same_bytes(results):
    assert command("report", results) == 0
    first = written(results)
    shutil.rmtree(results / "tiny" / "tables")
    assert command("report", results, "--experiment", "all") == 0
    assert written(results) == first


@pytest.mark.slow
def test_a_report_of_named_experiments_holds_their_tables_alone(results, capsys):
    assert command("report", results, "--experiment", "layer_fraction") == 0
    assert ids(results) == {id for id in OF_EXPERIMENTS if id.startswith("layer_fraction")}
    assert "layer_fraction: 2 of 2 cells finished" in capsys.readouterr().err
    assert command("report", results, "--experiment", "layer_fraction,main") == 0
    assert ids(results) == OF_EXPERIMENTS


@pytest.mark.slow
def test_a_report_needs_no_torch(results):
    """Nothing that makes tables, checks or claims imports it, or what would."""
    expected = build.everything(Store(results, "tiny"), settings_of_options())[0]
    code = f"""
import sys
from pathlib import Path
from floe_bench.harness.report import build
from floe_bench.harness.report import tables
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store
settings = Settings.model_validate_json(sys.stdin.read())
store = Store(Path({str(results)!r}), "tiny")
tables.write(build.everything(store, settings)[0], store.folder / "tables")
print([name for name in ("torch", "transformers", "peft", "datasets", "lm_eval") if name in sys.modules])
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], input=settings_of_options().model_dump_json(), cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
    assert ids(results) == {table.id for table in expected}
    for table in expected:
        assert written(results)[f"{table.id}.md"].decode() == to_markdown(table.title, table.view, table.notes)


def test_a_model_path_is_where_weights_lie_and_nothing_to_a_report(tmp_path):
    """scoring_cost refuses a run with a model path, which must not stop the other tables."""
    store, settings = Store(tmp_path, "tiny"), profiles.load("tiny", {"model.path": "weights"})
    assert [table.id for table in build.everything(store, settings)[0]] == ["checks", "claims"]


def test_a_report_of_nothing_says_so(tmp_path, capsys):
    assert command("report", tmp_path) == 0
    assert ids(tmp_path) == {"checks", "claims"}
    rows = json.loads((tmp_path / "tiny" / "tables" / "claims.json").read_text())["rows"]
    assert {row["verdict"] for row in rows} == {"not run"}


# --- checks -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("named", [[], ["--experiment", "main,layer_fraction"]], ids=["everything", "named"])
def test_strict_is_an_exit_code_where_a_check_fired(named, results, monkeypatch, capsys):
    for found, code in (([], 0), ([FINDING], 1)):
        monkeypatch.setattr(build, "run_checks", lambda _, found=found: found)
        assert command("report", results, *named, "--strict") == code
        assert command("report", results, *named) == 0
    if named:
        assert "check 6, at_chance: a score at chance" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_finding_is_in_the_table_and_in_the_exit_code(results):
    """A pilot of one optimiser step has not converged, and layer_fraction plans with one."""
    assert command("report", results, "--strict") == 1
    rows = json.loads((results / "tiny" / "tables" / "checks.json").read_text())["rows"]
    assert 5 in {row["number"] for row in rows}
    assert all(row["cells"] and row["n_cells"] == len(row["cells"].split(" | ")) for row in rows)


def test_findings_are_shown_once_by_number_with_all_their_cells_and_advice():
    other = Finding("a cliff", ("dolly / floe / seed 0", "dolly / floe / seed 1"), "cliff", 3)
    more = replace(FINDING, cells=("dolly / base / seed 0", "dolly / base / seed 1"))
    table = build.checks_table([FINDING, other, more])
    assert table.frame["number"].tolist() == [3, 6] and table.view["Cells"].tolist() == [2, 2]
    assert table.frame["cells"].tolist() == [
        "dolly / floe / seed 0 | dolly / floe / seed 1", "dolly / base / seed 0 | dolly / base / seed 1",
    ]  # fmt: skip
    advice = {check.number: check.advice for check in all_checks()}
    assert table.notes[0].startswith(f"2 of {len(advice)} checks fired")
    assert table.notes[1:] == [f"What to do, {number}: {advice[number]}" for number in (3, 6)]


def test_no_finding_is_said_and_not_taken_for_no_cells():
    table = build.checks_table([])
    assert table.frame.empty and table.notes[0].startswith(f"none of {len(all_checks())} checks fired")
    assert "No finished cells" not in to_markdown(table.title, table.view, table.notes)


def test_a_strict_report_of_nothing_fails_and_says_so(tmp_path, capsys):
    assert command("report", tmp_path, "--strict") == 1
    assert "holds no record: `floe-bench run tiny` makes some" in capsys.readouterr().err
    assert command("report", tmp_path) == 0
