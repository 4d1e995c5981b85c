"""Each mix turns its raw columns into prompt and completion, from files and from the hub."""

import gzip
import importlib
import json

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data.sources import FolderSource
from floe_bench.harness.errors import UsageError


class Raw:
    """A source of given raw rows (file -> rows) that writes down what it is asked."""

    def __init__(self, files, kind="folder"):
        self.files, self.kind, self.asked = files, kind, {}

    def read(self, file, hub, columns, **hub_options):
        self.asked[file] = (hub, tuple(columns), hub_options)
        yield from self.files[file]

    def mix(self, name):
        return importlib.import_module(f"floe_bench.tasks.mixes.{name}").rows(self)


def test_dolly_joins_instruction_and_context():
    source = Raw(
        {
            "dolly": [
                {"instruction": "Why? ", "context": "", "response": " Because.\n", "category": "open_qa"},
                {"instruction": "Sum up.", "context": "\nA text.\n", "response": "Short.", "category": "summarization"},
            ]
        }
    )
    assert list(source.mix("dolly")) == [
        Row("Why?", "Because.", "dolly", "open_qa"),
        Row("Sum up.\n\nA text.", "Short.", "dolly", "summarization"),
    ]
    columns = ("instruction", "context", "response", "category")
    assert source.asked == {"dolly": ("databricks/databricks-dolly-15k", columns, {})}


def test_code_joins_instruction_and_input():
    source = Raw(
        {
            "codealpaca": [
                {"instruction": "Add.", "input": "1, 2", "output": "def f():\n    return 3\n"},
                {"instruction": "Print x.", "input": " ", "output": "print(x)"},
            ]
        }
    )
    assert list(source.mix("code")) == [
        Row("Add.\n\n1, 2", "def f():\n    return 3", "code"),
        Row("Print x.", "print(x)", "code"),
    ]
    assert source.asked == {"codealpaca": ("sahil2801/CodeAlpaca-20k", ("instruction", "input", "output"), {})}


def test_flanv2_keeps_its_task_and_names_its_hub_files():
    raw = {"inputs": " Is it?\n", "targets": "yes ", "task": "cot_creak"}
    source = Raw({"flanv2": [raw]})
    assert list(source.mix("flanv2")) == [Row("Is it?", "yes", "flanv2", "cot_creak")]
    hub, columns, options = source.asked["flanv2"]
    assert (hub, columns) == ("SirNeural/flan_v2", ("inputs", "targets", "task"))
    assert "cot_zs_noopt_train.jsonl.gz" in options["data_files"]


GENMEDGPT = {"instruction": "You are a doctor.", "input": "It hurts.", "output": "Rest."}
ICLINIQ = {"input": "It itches.", "answer_icliniq": "Do not scratch."}


@pytest.mark.parametrize("kind", ["folder", "embedded"])
def test_medical_files_hold_one_data_set(kind):
    source = Raw({"medical": [GENMEDGPT]}, kind)
    assert list(source.mix("medical")) == [Row("You are a doctor.\n\nIt hurts.", "Rest.", "medical", "genmedgpt")]


def test_medical_on_the_hub_is_two_data_sets():
    source = Raw({"medical": [GENMEDGPT], "icliniq": [ICLINIQ]}, "hub")
    assert list(source.mix("medical")) == [
        Row("You are a doctor.\n\nIt hurts.", "Rest.", "medical", "genmedgpt"),
        Row("It itches.", "Do not scratch.", "medical", "icliniq"),
    ]
    assert [hub for hub, _, _ in source.asked.values()] == [
        "wangrongsheng/GenMedGPT-5k-en",
        "lavita/ChatDoctor-iCliniq",
    ]


def test_pretrain_is_text_without_a_prompt():
    long = " It was a dark and stormy night." * 20
    source = Raw({"pretrain": [{"text": long, "source": "c4"}, {"text": long + "x"}]})
    assert list(source.mix("pretrain")) == [
        Row(None, long.strip(), "pretrain", "c4"),
        Row(None, long.strip() + "x", "pretrain", ""),
    ]
    assert source.asked == {"pretrain": ("Salesforce/wikitext", ("text",), {})}


def test_pretrain_names_its_part_on_the_hub():
    source = Raw({"pretrain": []}, "hub")
    assert list(source.mix("pretrain")) == []
    assert source.asked["pretrain"][2] == {"name": "wikitext-2-raw-v1"}


def test_mixed_is_the_four_mixes_and_nothing_else():
    source = Raw(
        {
            "dolly": [{"instruction": "a", "context": "", "response": "b", "category": "c"}],
            "flanv2": [{"inputs": "d", "targets": "e", "task": "f"}],
            "medical": [GENMEDGPT],
            "codealpaca": [{"instruction": "g", "input": "", "output": "h"}],
        }
    )
    rows = list(source.mix("mixed"))
    assert [row.domain for row in rows] == ["dolly", "flanv2", "medical", "code"]
    assert rows == [row for part in ("dolly", "flanv2", "medical", "code") for row in source.mix(part)]


@pytest.mark.parametrize(
    ("mix", "file", "column"),
    [("dolly", "dolly", "context"), ("code", "codealpaca", "output"), ("flanv2", "flanv2", "task")],
)
def test_a_mixs_missing_column_is_named(tmp_path, mix, file, column):
    columns = {"dolly": "instruction context response category", "code": "instruction input output"}
    row = dict.fromkeys(columns.get(mix, "inputs targets task").split(), "x")
    del row[column]
    (tmp_path / f"{file}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=f"{file}.jsonl, line 1: there is no column '{column}'"):
        list(FolderSource(tmp_path).mix(mix))


def test_every_mix_publishes_its_size():
    sizes = {name: plugin.load().PUBLISHED_SIZE for name, plugin in registry.plugins("mix").items()}
    assert all(rows > 0 and mean_tokens > 0 for rows, mean_tokens in sizes.values())
    parts = [sizes[name] for name in ("dolly", "flanv2", "medical", "code")]
    assert sizes["mixed"][0] == sum(rows for rows, _ in parts)
    mean = sum(rows * tokens for rows, tokens in parts) / sizes["mixed"][0]
    assert sizes["mixed"][1] == pytest.approx(mean, abs=1)


FILES = {"dolly": "dolly", "flanv2": "flanv2", "medical": "medical", "code": "codealpaca", "pretrain": "pretrain"}


@pytest.mark.slow
@pytest.mark.parametrize("mix", sorted(FILES))
def test_the_published_size_is_that_of_the_real_file(data_dir, mix):
    plugin = registry.find("mix", mix).load()
    with gzip.open(data_dir / f"{FILES[mix]}.jsonl.gz") as lines:
        published = sum(1 for _ in lines)
    assert plugin.PUBLISHED_SIZE[0] == published
    read = sum(1 for _ in plugin.rows(FolderSource(data_dir)))
    assert read == published if mix != "pretrain" else 0 < read <= published
