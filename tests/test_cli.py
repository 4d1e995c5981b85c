"""Test the command: its answers, its speed, and its messages on bad input."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from floe_bench.harness import registry
from floe_bench.harness.cli.main import STORAGE_ERROR, main
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.files import digest

from .disk import largest_file

ROOT = Path(__file__).parents[1]

HEAVY = ("torch", "transformers", "peft", "datasets", "lm_eval", "pandas", "optuna")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, hold it to exit code 2 and one sentence, after the line that counts cells; returns both."""
    code = main(arguments)
    error = capsys.readouterr().err
    assert code == 2, error
    *counted, sentence = error.splitlines()
    assert sentence.startswith("floe-bench: ") and len(sentence) < 1300 and not counted[1:]
    assert not counted or re.fullmatch(r"\d+ cells: .* to do", counted[0])
    return error


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["run", "--help"]])
def test_help_and_list_load_nothing_heavy(arguments):
    code = (
        "import sys\nfrom floe_bench.harness.cli.main import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stderr.strip() == "[]"


def test_naming_a_method_and_listing_an_evaluations_items_load_nothing_heavy():
    code = (
        "import sys\nfrom floe_bench.harness import registry\n"
        "for name in registry.plugins('method'): registry.parse_method(name)\n"
        "for plugin in registry.plugins('evaluation').values(): plugin.load()\n"
        "print({'torch', 'transformers', 'peft', 'datasets', 'lm_eval'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == "set()"


def test_libraries_imported_later_are_quiet():
    code = (
        "import sys\nfrom floe_bench.harness.cli.quiet import quiet_libraries\nquiet_libraries()\n"
        "print('transformers' in sys.modules)\nfrom transformers.utils import logging\n"
        "print(logging.get_verbosity() == logging.ERROR, logging.is_progress_bar_enabled())\n"
        "from transformers.modeling_gguf_pytorch_utils import tqdm\nlist(tqdm(range(3)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.split() == ["False", "True", "False"]
    assert ran.stderr == ""


def test_list_shows_every_plugin_with_description_and_origin(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for kind in ("method", "mix", "evaluation", "experiment"):
        for plugin in registry.plugins(kind).values():
            assert f"{plugin.id} " in text and plugin.description in text and plugin.origin in text
    assert main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert {entry["id"] for entry in listing["method"]} == set(registry.plugins("method"))


PAPER_MODELS = {"llama2-7b": 6_738_415_616, "gemma2-2b": 2_614_341_888, "mistral-7b": 7_241_732_096}


@pytest.mark.slow
@pytest.mark.parametrize("profile", PAPER_MODELS)
def test_plan_knows_the_published_parameter_counts_without_weights(profile, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FLOE_DATA_DIR", raising=False)
    arguments = ["--mixes", "dolly", "--seeds", "1", "--methods", "base", "--results", str(tmp_path), "--json"]
    assert main(["plan", profile, *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["base_parameters"] == PAPER_MODELS[profile]


@pytest.mark.slow
def test_plan_counts_lora_as_its_authors_do(capsys, tmp_path, monkeypatch):
    """r = 8 on q_proj and v_proj of LLaMA2-7B: 4,194,304, as in the LoRA literature."""
    monkeypatch.delenv("FLOE_DATA_DIR", raising=False)
    method = "lora:r=8:target_modules=q_proj+v_proj"
    arguments = ["--methods", method, "--mixes", "dolly", "--seeds", "1", "--results", str(tmp_path), "--json"]
    assert main(["plan", "llama2-7b", *arguments]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["trainable_parameters"] == [4_194_304]
    # r (d_in + d_out) per module, 32 layers, two modules of 4096 by 4096
    assert 32 * 2 * 8 * (4096 + 4096) == 4_194_304


@pytest.mark.slow
def test_plan_counts_moe_lora_by_the_closed_formula(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FLOE_DATA_DIR", raising=False)
    arguments = [
        "--methods",
        "hydralora,floe",
        "--mixes",
        "dolly",
        "--seeds",
        "1",
        "--results",
        str(tmp_path),
        "--json",
    ]
    assert main(["plan", "llama2-7b", *arguments]) == 0
    hydralora, floe = json.loads(capsys.readouterr().out)["cells"]

    def per_layer(r: int, experts: int = 4, hidden: int = 4096, inner: int = 11008) -> int:
        def module(d_in: int, d_out: int) -> int:
            return r * d_in + experts * r * d_out + experts * d_in

        return 2 * module(hidden, inner) + module(inner, hidden)

    assert hydralora["trainable_parameters"] == [32 * per_layer(4)]
    assert floe["trainable_parameters"] == [8 * per_layer(2), 8 * per_layer(16)]


# --- bad input -------------------------------------------------------------------------------------


def test_missing_weights_say_what_to_do(capsys, tmp_path, data_dir):
    error = fails(capsys, "run", "llama2-7b", "--data-dir", str(data_dir), "--results", str(tmp_path))
    assert "--model-path" in error


def test_gated_weights_say_what_to_do(capsys, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refuse(*args, **kwargs):
        raise GatedRepoError("gated", response=Mock(headers={}))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    overrides = ["--set=data.source=embedded", "--set=data.validation_fraction=0.2"]
    overrides += ["--set=eval.evals=validation_nll", "--set=eval.primary=validation_nll"]
    rows = [f"--set=data.{name}_rows=8" for name in ("train", "validation", "pretrain")]
    error = fails(capsys, "run", "llama2-7b", *overrides, *rows, "--results", str(tmp_path))
    assert "licence" in error and "hf auth login" in error and "--model-path" in error


def test_a_model_path_without_a_model_is_refused(capsys, tmp_path):
    error = fails(capsys, "run", "tiny", "--model-path", str(tmp_path), "--results", str(tmp_path / "r"))
    assert "config.json" in error


def test_no_hub_says_what_works_without(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("FLOE_DATA_DIR", raising=False)
    error = fails(capsys, "run", "tiny", "--set", "data.source=hub", "--results", str(tmp_path))
    assert "--data-dir" in error and "smoke" in error


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small data folder in the original columns."""
    data = tmp_path / "data"
    data.mkdir()
    for file in (ROOT / "tasks" / "data").glob("*.jsonl"):
        (data / file.name).write_text(file.read_text())
    return data


def with_folder(folder: Path, tmp_path: Path) -> list[str]:
    return ["run", "tiny", "--mixes", "dolly", "--data-dir", str(folder), "--results", str(tmp_path / "results")]


def test_a_missing_data_folder_is_named(capsys, tmp_path):
    assert "no such folder" in fails(capsys, *with_folder(tmp_path / "nowhere", tmp_path))


def test_a_missing_data_file_is_named(capsys, folder, tmp_path):
    (folder / "dolly.jsonl").unlink()
    assert "dolly.jsonl" in fails(capsys, *with_folder(folder, tmp_path))


def test_a_missing_column_is_named_with_file_and_line(capsys, folder, tmp_path):
    lines = (folder / "dolly.jsonl").read_text().replace('"response"', '"responce"')
    (folder / "dolly.jsonl").write_text(lines)
    error = fails(capsys, *with_folder(folder, tmp_path))
    assert "dolly.jsonl, line 1" in error and "responce" in error


@pytest.mark.parametrize(("value", "found"), [("5", "int"), ("null", "null"), ('["a"]', "list")])
def test_a_value_of_the_wrong_type_is_named_with_file_and_line(value, found, capsys, folder, tmp_path):
    lines = (folder / "dolly.jsonl").read_text().splitlines()
    lines[2] = re.sub(r'"response": ".*?", "category"', f'"response": {value}, "category"', lines[2])
    (folder / "dolly.jsonl").write_text("\n".join(lines))
    error = fails(capsys, *with_folder(folder, tmp_path))
    assert "dolly.jsonl, line 3: column 'response'" in error and found in error


def test_a_budget_that_fits_no_layer_is_refused(capsys, tmp_path):
    options = ["--methods", "floe", "--mixes", "dolly", "--set", "selection.taylor_budget=0.001"]
    assert "no layer fits" in fails(capsys, "run", "tiny", *options, "--results", str(tmp_path))


def test_weights_of_another_shape_than_the_profiles_are_refused(capsys, tmp_path):
    arguments = ["run", "smoke", "--methods", "lora", "--mixes", "dolly", "--set", "model.config.num_hidden_layers=10"]
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    assert "do not have the shape" in capsys.readouterr().err.splitlines()[-1]  # the first run's conversion shows bars


def test_a_broken_line_is_named_with_file_and_line(capsys, folder, tmp_path):
    lines = (folder / "dolly.jsonl").read_text().splitlines()
    lines[6] = lines[6][:-5]
    (folder / "dolly.jsonl").unlink()
    with gzip.open(folder / "dolly.jsonl.gz", "wt") as stream:
        stream.write("\n".join(lines))
    assert "dolly.jsonl.gz, line 7" in fails(capsys, *with_folder(folder, tmp_path))


@pytest.mark.parametrize(
    "command", [["run", "tiny"], ["report", "tiny"], ["show", "tiny", "lora"], ["check", "tiny"], ["bench", "memory"]]
)
@pytest.mark.parametrize("folder", ["file", "file/deeper"])
def test_a_file_in_the_results_folders_place(command, folder, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "results folder" in fails(capsys, *command, "--results", str(tmp_path / folder))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("name", ["a?b", "a%41", "a#b", " ", 'it\'s "ü"', "-dash", "two\nlines", "\udcff", "\x1b[2J"])
def test_any_name_does_for_a_results_folder(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "tiny", "--experiment", "main", f"--results={name}"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_record_of_another_schema_version_is_said_and_skipped(capsys, tmp_path):
    records = tmp_path / "tiny" / "records"
    records.mkdir(parents=True)
    (records / "new.json").write_text('{"schema_version": 99}')
    assert main(["report", "tiny", "--results", str(tmp_path)]) == 0
    error = capsys.readouterr().err
    assert error.count("new.json") == 1 and "schema version 99" in error and "use the release that wrote it" in error
    assert (records / "new.json").read_text() == '{"schema_version": 99}'


def test_a_disk_that_takes_nothing_is_one_sentence_with_a_code_of_its_own(capsys, tmp_path):
    for command in ("run", "report"):
        with largest_file(1000):
            assert main([command, "tiny", "--results", str(tmp_path / command)]) == STORAGE_ERROR == 3
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and "cannot be written (File too large): make room" in error[0]
        assert "run the same command again" in error[0]
        assert not list((tmp_path / command).rglob("*.*"))


def test_a_broken_expectation_is_one_sentence(capsys, tmp_path):
    path = tmp_path / "expected.json"
    for text in ("", "[]", '{"expectation_version": NaN}', '{"a": 1, "a": 2}', "[" * 100_000):
        path.write_text(text)
        error = fails(capsys, "check", "tiny", "--expected", str(path), "--results", str(tmp_path))
        assert "no expectation of floe-bench" in error or "holds no run" in error


def test_cells_have_distinct_labels_and_keys():
    cells = [Cell(method=m, mix="dolly", seed=s) for m in ("lora", "lora:r=8") for s in (0, 1)]
    assert len({cell.label for cell in cells}) == len({digest(cell.model_dump()) for cell in cells}) == 4


# --- benchmarks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["moe_lorra"], "moe_lora"),
        (["smoke"], "needs another checkout of this project: --against DIR"),
        (["moe_lora", "--repeats", "0"], "at least 1"),
        (["moe_lora", "--data-dir", "no/such/folder"], "--data-dir no/such/folder is not a folder"),
        (["smoke", "--against", "no/such/folder"], "--against no/such/folder is not a folder"),
    ],
)
def test_a_benchmark_that_cannot_run_says_why(arguments, said, capsys):
    assert said in fails(capsys, "bench", *arguments)
