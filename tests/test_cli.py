"""Test the command: its answers, its speed, and its messages on bad input."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
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

UNKNOWN = [
    (["run", "smok"], "smoke"),
    (["run", "tiny", "--methods", "hydralor"], "hydralora"),
    (["run", "tiny", "--methods", "topk_layers:scor=taylor"], "score"),
    (["run", "tiny", "--methods", "topk_layers:score=tailor"], "taylor"),
    (["run", "tiny", "--methods", "lora:r"], "lora:option=value"),
    (["run", "tiny", "--methods", "floe_layers:on=doly"], "dolly"),
    (["run", "tiny", "--methods", "floe_layers:drift_to=cod:drift=0.5"], "code"),
    (["run", "tiny", "--methods", "lora:match=flo"], "floe"),
    (["run", "tiny", "--methods", "layer_scores:scores=tailor"], "taylor"),
    (["run", "tiny", "--mixes", "doly"], "dolly"),
    (["run", "tiny", "--experiment", "mian"], "main"),
    (["run", "tiny", "--set", "train.epoch=2"], "train.epochs"),
    (["run", "tiny", "--set", "eval.evals=mmlu_0shots"], "mmlu_0shot"),
    (["run", "tiny", "--set", "eval.primary=mmlu_5shot"], "eval.evals"),
    (["run", "tiny", "--set", "train.epochs"], "key=value"),
    (["rnu", "tiny"], "did you mean run?"),
    ([], "COMMAND"),
    (["run"], "PROFILE"),
    (["why", "tiny"], "CELL"),
    (["run", "tiny", "--result", "x"], "did you mean --results"),
    (["run", "tiny", "--result=x"], "did you mean --results"),
    (["run", "tiny", "too", "much"], "nothing is expected at 'too'"),
    (["run", "tiny", "--seeds", "two"], "'two'"),
    (["run", "tiny", "--set"], "--set"),
    (["run", "ti\nny\x1b[2J"], r"ti\nny\x1b[2J"),
    (["run", "x" * 10_000], "xx … xx"),
    (["run", "tiny", "--set", f"{'[' * 10_000}=1"], "unknown setting"),
    (["run", "tiny", "--results", "x" * 300], "File name too long"),
    (["run", "tiny", "--results", "/".join(["x" * 200] * 30)], "File name too long"),
]
OUT_OF_RANGE = [
    (["--methods", "lora:r=0"], "greater than or equal to 1"),
    (["--methods", "lora:match=lora"], "on itself"),
    (["--methods", "lora:match=base"], "trains nothing"),
    (["--methods", "lora:match=floe:r=2"], "both set the rank"),
    (["--methods", "lora:match=floe", "--set", "search.probe_rows=1000"], "search.probe_rows"),
    (["--methods", "layer_scores:part=2:parts=2"], "part=2 is not one of 0 to 1"),
    (["--methods", "layer_scores:part=-1"], "greater than or equal to 0"),
    (["--methods", "layer_scores:parts=17"], "too few for 17 disjoint parts"),
    (["--methods", "floe_layers:drift=0.5"], "drift needs drift_to"),
    (["--methods", "floe_layers:drift_to=code:drift=2"], "less than or equal to 1"),
    (["--methods", "floe_layers:drift_to=dolly:drift=0.5"], "must come from another"),
    (["--set", "adapter.r=0"], "adapter.r"),
    (["--set", "adapter.r=17"], "r = 17 is above 16"),
    (["--set", "search.r_max=20", "--methods", "floe"], "r = 20 is above 16"),
    (["--set", "selection.layer_fraction=0"], "selects no layer"),
    (["--set", "selection.layer_fraction=1.5"], "selection.layer_fraction"),
    (["--set", "selection.taylor_budget=0"], "selection.taylor_budget"),
    (["--set", "data.pilot_fraction=0"], "data.pilot_fraction"),
    (["--set", "data.pilot_fraction=1.2"], "data.pilot_fraction"),
    (["--seeds", "0"], "seeds"),
    (["--seeds", "1" + "0" * 12], "less than or equal to 10000"),
    (["--set", "train.epochs=" + "9" * 5000], "train.epochs"),
    (["--set", "train.epochs=" + "[" * 5000], "train.epochs"),
    (["--set", "train.epochs=1\nother = 2"], "train.epochs"),
    (["--set", "model.config.rope_theta=inf"], "a finite number"),
    (["--set", "model.config.rope_theta=2026-01-01"], "a finite number"),
    (["--set", f"model.seed={10**20}"], "64 bits"),
    (["--set", "model.id=\udcff"], "UTF-8"),
    (["--methods", "lora:target_modules=\udcff"], "UTF-8"),
    (["--set", "train.lr_scheduler_type=cosin"], "train.lr_scheduler_type"),
    (["--set", "model.config.model_type=lama"], "did you mean llama"),
    (["--methods", "lora:target_modules=lm_head"], "lm_head"),
    (["--set", "search.r_min=9"], "r_min 9 is above r_max"),
    (["--set", "train.micro_batch_size=3"], "does not divide"),
    (["--set", "adapter.target_modules=gate_prj"], "gate_proj"),
    (["--set", "data.train_rows=100000"], "asks for 100000"),
    (["--set", "data.validation_rows=100000"], "asks for 100000"),
    (["--set", "data.pretrain_rows=1000"], "asks for 1000"),
    (["--set", "search.probe_rows=1000", "--methods", "floe"], "search.probe_rows"),
    (["--set", "eval.evals=mmlu_5shot", "--set", "eval.primary=mmlu_5shot"], "--data-dir"),
]


@pytest.mark.parametrize(("arguments", "hint"), UNKNOWN, ids=lambda value: "-".join(value)[:60])
def test_unknown_names_get_the_nearest_valid_ones(arguments, hint, capsys, tmp_path):
    assert hint in fails(capsys, *arguments, "--results", str(tmp_path))


@pytest.mark.parametrize(("arguments", "hint"), OUT_OF_RANGE, ids=lambda value: "-".join(value)[:60])
def test_values_out_of_range_are_refused_before_anything_is_spent(arguments, hint, capsys, tmp_path):
    assert hint in fails(capsys, "run", "tiny", *arguments, "--results", str(tmp_path))
    assert not list(tmp_path.rglob("*.json"))


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


QUESTIONS = [
    {"subject": subject, "question": f"What is {i}?", "choices": list("abcd"), "answer": i % 4}
    for i in range(5)
    for subject in ("anatomy", "virology")
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small data folder in the original columns."""
    data = tmp_path / "data"
    data.mkdir()
    for file in (ROOT / "tasks" / "data").glob("*.jsonl"):
        (data / file.name).write_text(file.read_text())
    for name in ("mmlu_test", "mmlu_dev"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return data


def with_folder(folder: Path, tmp_path: Path, command: str = "run") -> list[str]:
    return [command, "tiny", "--mixes", "dolly", "--data-dir", str(folder), "--results", str(tmp_path / "results")]


def with_values(**values) -> Callable[[Path], object]:
    """Give the third row of a file other values."""

    def change(path: Path) -> None:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[2] |= values
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


def first_lines(n: int) -> Callable[[Path], object]:
    return lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:n]))


@pytest.mark.parametrize(
    ("name", "break_it", "said"),
    [
        ("dolly", with_values(response=None), "dolly.jsonl, line 3: column 'response' is null"),
        ("dolly", first_lines(3), "of 3 rows read, 3 are for training and 0 for validation"),
        ("medical", with_values(output=7), "medical.jsonl, line 3: column 'output' is int"),
        ("pretrain", with_values(text=[]), "pretrain.jsonl, line 3: column 'text' is list"),
        ("pretrain", first_lines(2), "the pre-training text has "),
        ("pretrain", Path.unlink, "pretrain.jsonl or pretrain.jsonl.gz is missing"),
        ("mmlu_test", with_values(subject="anatomie"), "mmlu_test.jsonl, line 3: unknown subject 'anatomie'"),
        ("mmlu_test", with_values(choices=["a", "b", "c", " "]), "mmlu_test.jsonl, line 3: four choices"),
        ("mmlu_dev", with_values(answer=True), "mmlu_dev.jsonl, line 3: column 'answer' is bool"),
        ("mmlu_dev", first_lines(9), "mmlu_dev holds 4 questions of virology, and 5 are shown"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_broken_rows_and_questions_are_refused_by_plan_as_by_run(
    command, name, break_it, said, capsys, folder, tmp_path
):
    break_it(folder / f"{name}.jsonl")
    shots = ["--set", "eval.evals=mmlu_5shot,validation_nll", "--set", "eval.primary=mmlu_5shot"]
    assert said in fails(capsys, *with_folder(folder, tmp_path, command), "--methods", "lora", *shots)
    assert not list((tmp_path / "results").rglob("*.json"))


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
    assert "do not have the shape" in fails(capsys, *arguments, "--results", str(tmp_path))


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
