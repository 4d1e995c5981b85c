"""Every refusal, by a process of its own: exit code 2, one sentence, no traceback, and nothing written.

`plan` and `run` refuse the same rows, questions and models.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from floe_bench.harness.model.base import byte_tokenizer

from .command import NLL_ALONE, ROOT, forked, run
from .harness.model.folders import saved, with_config, with_weights, written

pytestmark = pytest.mark.slow

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

QUESTIONS = [
    {"subject": subject, "question": f"What is {i}?", "choices": list("abcd"), "answer": i % 4}
    for i in range(5)
    for subject in ("anatomy", "virology")
]


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_loaded(tmp_path_factory):
    """Load here, once, what every child needs: it takes a process of its own seconds."""
    run(tmp_path_factory.mktemp("once"), "--methods", "base", "--seeds", "1")


def refused(*arguments: str, results: Path) -> str:
    """Hold the command to exit code 2 and one sentence, after the line that counts cells; returns the sentence."""
    code, said = forked(*arguments)
    assert code == 2, said
    *counted, sentence = said.splitlines()
    assert sentence.startswith("floe-bench: ") and len(sentence) < 1300, said
    assert not counted or (len(counted) == 1 and counted[0].endswith(" to do")), said
    assert not [path for path in results.rglob("*") if path.is_file() and path.name != ".lock"]
    return sentence


@pytest.mark.parametrize(("arguments", "said"), UNKNOWN, ids=lambda value: "-".join(value)[:60])
def test_unknown_names_get_the_nearest_valid_ones(arguments, said, tmp_path):
    assert said in refused(*arguments, results=tmp_path)


@pytest.mark.parametrize(("arguments", "said"), OUT_OF_RANGE, ids=lambda value: "-".join(value)[:60])
def test_values_out_of_range_are_refused(arguments, said, tmp_path):
    assert said in refused("run", "tiny", *arguments, "--results", str(tmp_path), results=tmp_path)


# --- rows and questions -----------------------------------------------------------------------------


def third_row(**values) -> Callable[[Path], object]:
    """Give the third row of a file other values."""

    def change(path: Path) -> None:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[2] |= values
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


def third_line(text: bytes) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:2], text + b"\n", *lines[3:]]))

    return change


def first_lines(n: int) -> Callable[[Path], object]:
    return lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:n]))


def empty_twice(path: Path) -> None:
    path.with_suffix(".csv").touch()


ROWS = {
    "null": ("dolly", third_row(response=None), "dolly.jsonl, line 3: column 'response' is null"),
    "few": ("dolly", first_lines(3), "of 3 rows read, 3 are for training and 0 for validation"),
    "number": ("medical", third_row(output=7), "medical.jsonl, line 3: column 'output' is int"),
    "list": ("pretrain", third_row(text=[]), "pretrain.jsonl, line 3: column 'text' is list"),
    "little text": ("pretrain", first_lines(2), "the pre-training text has "),
    "no text": ("pretrain", Path.unlink, "pretrain.jsonl or pretrain.jsonl.gz is missing"),
    "two files": ("dolly", empty_twice, "dolly.jsonl and dolly.csv are both there"),
    "surrogate": ("dolly", third_line(rb'{"response": "\ud800"}'), "dolly.jsonl, line 3: not a line of JSON"),
    "deep": ("dolly", third_line(b"[" * 99_999), "dolly.jsonl, line 3: .*nested more than 100 deep"),
    "no JSON": ("dolly", third_line(b"{"), "dolly.jsonl, line 3: not a line of JSON"),
    "no UTF-8": ("dolly", third_line(b"\xff"), "dolly.jsonl, line 3: not a line of JSON in UTF-8"),
    "no object": ("dolly", third_line(b"7"), "dolly.jsonl, line 3: a JSON object was expected, not int"),
    "unknown subject": ("mmlu_test", third_row(subject="anatomie"), "line 3: unknown subject 'anatomie'.*anatomy"),
    "blank choice": ("mmlu_test", third_row(choices=["a", "b", "c", " "]), "mmlu_test.jsonl, line 3: four choices"),
    "five choices": ("mmlu_test", third_row(choices=list("abcde")), "mmlu_test.jsonl, line 3: four choices"),
    "numbers": ("mmlu_test", third_row(choices=[1, 2, 3, 4]), "mmlu_test.jsonl, line 3: four choices"),
    "equal choices": ("mmlu_test", third_row(choices=["a", "a ", " a", "b"]), "line 3: the choices .* are the same"),
    "truth": ("mmlu_dev", third_row(answer=True), "mmlu_dev.jsonl, line 3: column 'answer' is bool"),
    "beyond": ("mmlu_test", third_row(answer=4), "mmlu_test.jsonl, line 3: an answer from 0 to 3 was expected, not 4"),
    "few exemplars": ("mmlu_dev", first_lines(9), "mmlu_dev holds 4 questions of virology, and 5 are shown"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("fault", ROWS)
def test_broken_rows_and_questions_are_refused(command, fault, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for file in (ROOT / "tasks" / "data").glob("*.jsonl"):
        (data / file.name).write_bytes(file.read_bytes())
    for name in ("mmlu_test", "mmlu_dev"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    name, break_it, said = ROWS[fault]
    break_it(data / f"{name}.jsonl")
    shots = ["--set", "eval.evals=mmlu_5shot,validation_nll", "--set", "eval.primary=mmlu_5shot"]
    results = tmp_path / "results"
    arguments = ["--mixes", "dolly", "--methods", "lora", *shots, "--data-dir", str(data), "--results", str(results)]
    assert re.search(said, refused(command, "tiny", *arguments, results=results))


# --- models -----------------------------------------------------------------------------------------


def no_eos():
    tokenizer = byte_tokenizer.__wrapped__()
    tokenizer.eos_token = None
    return tokenizer


def seq2seq(folder: Path) -> Path:
    return written(folder, AutoConfig.for_model("t5", d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))


def only(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


UP = "model.layers.2.mlp.up_proj.weight"
MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing weight": (lambda f: with_weights(saved(f), lambda w: w.pop(UP)), f"lack {UP}"),
    "surplus weight": (lambda f: with_weights(saved(f), lambda w: w.update(other=w[UP] + 0)), "has not, other"),
    "another shape": (lambda f: with_weights(saved(f), lambda w: w.update({UP: w[UP][:3] + 0})), f"says of {UP}"),
    "tied by name": (lambda f: with_config(saved(f), tie_word_embeddings=True), '"tie_word_embeddings": false'),
    "pickle": (lambda f: only(f, config__json="{}", pytorch_model__bin=""), "weights as pickle"),
    "adapter": (lambda f: only(f, adapter_config__json="{}"), "only an adapter there"),
    "no tokenizer.json": (
        lambda f: only(f, config__json="{}", model__safetensors="", tokenizer__model=""),
        "no tokenizer.json",
    ),
    "own code": (lambda f: with_config(saved(f), model_type="own", auto_map={"AutoConfig": "o.C"}), "no model that"),
    "no configuration": (lambda f: with_config(saved(f), model_type="llamma"), "no model that transformers knows"),
    "no EOS": (lambda f: saved(f, tokenizer=no_eos()), "has no EOS token"),
    "small embedding": (
        lambda f: saved(f, vocab_size=258, bos_token_id=1, eos_token_id=1, pad_token_id=None),
        "id 258",
    ),
    "encoder-decoder": (seq2seq, "encoder-decoder"),
    "quantised": (lambda f: with_config(saved(f), quantization_config={"quant_method": "gptq", "bits": 4}), "gptq"),
    "short window": (lambda f: saved(f, max_position_embeddings=32), "--set data.max_length=32"),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("fault", MODELS)
def test_models_that_cannot_work_are_refused(command, fault, tmp_path):
    make, said = MODELS[fault]
    make(tmp_path / "model")
    results = tmp_path / "results"
    arguments = ["--mixes", "dolly", "--methods", "lora", *NLL_ALONE, "--model-path", str(tmp_path / "model")]
    assert said in refused(command, "tiny", *arguments, "--results", str(results), results=results)
