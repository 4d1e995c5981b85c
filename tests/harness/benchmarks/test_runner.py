"""The benchmarks' frame: order of the sides, ratios, targets and records; and the peers that are our own code."""

import json
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import torch
from peft import get_peft_model

from floe_bench.harness import registry
from floe_bench.harness.benchmarks import Bench, Measurement, _records, _runner, growth, llama2_7b
from floe_bench.harness.benchmarks._loop import loop_over_experts
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path, lambda text: None, repeats=4)


def test_sides_take_turns_and_the_order_turns_too(bench):
    calls = []
    values = bench.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert "".join(calls) == "ab" + "abba" * 2
    assert [len(seconds) for seconds in values.values()] == [4, 4]


def test_a_ratio_is_the_median_of_the_rounds_quotients():
    measured = Measurement(what="x", values={"a": [4, 9, 1], "b": [2, 3, 4]}, ratio=("a", "b"), at_most=2)
    assert measured.quotients == [2, 3, 0.25]
    assert measured.met
    assert not measured.model_copy(update={"at_most": 1.99}).met
    assert not measured.model_copy(update={"at_most": None, "at_least": 2.01}).met
    assert measured.model_copy(update={"at_most": None}).met is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"values": {"a": [1.0], "b": []}},
        {"values": {"a": [1.0]}, "ratio": ("a", "b")},
        {"values": {"a": [1.0], "b": [1.0, 2.0]}, "ratio": ("a", "b")},
        {"values": {"a": [1.0]}, "at_most": 1.0},
    ],
)
def test_a_measurement_that_says_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="x: "):
        Measurement(what="x", **wrong)


def test_peak_counts_what_a_side_holds_at_once(bench):
    one, two = 40_000_000, 80_000_000

    def hold(size: int) -> None:
        torch.ones(size, dtype=torch.uint8).add_(1)

    peaks = bench.peak({"one": lambda: hold(one), "two": lambda: hold(two)})
    assert median(peaks["two"]) - median(peaks["one"]) == pytest.approx(two - one, rel=0.1)


def test_a_record_holds_values_ratio_verdict_and_machine(bench, tmp_path):
    plugin = registry.Plugin("made_up", "benchmark", __name__, ROOT / "harness/benchmarks/moe_lora.py", "test")
    said = []
    _runner.run(_with(plugin), bench, tmp_path, said.append)
    record = json.loads((tmp_path / "bench" / "made_up.json").read_text())
    (measured,) = record["measurements"]
    assert measured["values"] == {"a": [1, 3], "b": [2, 2]}
    assert measured["ratio"] == {"numerator": "a", "denominator": "b", "median": 1, "low": 0.5, "high": 1.5}
    assert measured["met"] is True
    assert {"versions", "hardware", "git", "time"} <= set(record["provenance"])
    assert "met" in said[0]


def _with(plugin: registry.Plugin) -> registry.Plugin:
    """The plugin with a benchmark of one measurement for its module."""

    class MadeUp(registry.Plugin):
        def load(self) -> ModuleType:
            measured = Measurement(what="case", values={"a": [1, 3], "b": [2, 2]}, ratio=("a", "b"), at_most=1.0)
            module = ModuleType("made_up")
            vars(module)["run"] = lambda bench: iter([measured])
            return module

    return MadeUp(**vars(plugin))


def test_the_loop_over_experts_computes_what_it_is_timed_against():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4))
    config = MoeLoraConfig(r=2, num_experts=3, lora_dropout=0.0, target_modules=["0", "1"], init_weights=False)
    adapted = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    x = torch.randn(2, 7, 6)
    expected = adapted(x)
    loop_over_experts(adapted)
    torch.testing.assert_close(adapted(x), expected)


def test_the_7b_benchmark_runs_on_any_shape(bench, monkeypatch):
    monkeypatch.setattr(llama2_7b, "PROMPT", 12)
    monkeypatch.setattr(llama2_7b, "COMPLETION", 4)
    measured = list(llama2_7b.measure(bench, profiles.load("tiny"), rows=2))
    assert len(measured) == 4
    flops = measured[0].notes["flops"]
    assert flops["floe"] < flops["hydralora"]


def test_the_page_on_performance_says_what_the_records_say():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert _runner.table_of_records(ROOT / "results") in page


@pytest.mark.parametrize("plugin", registry.plugins("benchmark").values(), ids=lambda plugin: plugin.id)
def test_every_benchmark_says_what_it_compares(plugin):
    assert plugin.description.endswith(".") or plugin.description.endswith(")")
    assert callable(plugin.load().run)


@pytest.mark.slow
def test_a_filled_folder_is_a_finished_grid(tmp_path):
    models_in, store = (Store(tmp_path / name, _records.PROFILE) for name in ("models", "filled"))
    settings = _records.settings_of(10)
    _records.fill(store, settings, _records.run_models(tmp_path / "models"), models_in)
    assert len(store.records()) == 10
    growth._find_done(store, 10)
    growth._report(store, 10)


def test_what_is_no_benchmarks_record_is_said_and_left_out(tmp_path, capsys):
    folder = tmp_path / "bench"
    folder.mkdir()
    whole = (ROOT / "results" / "bench" / "moe_lora.json").read_text(encoding="utf-8")
    (folder / "moe_lora.json").write_text(whole, encoding="utf-8")
    expected = _runner.table_of_records(tmp_path)
    broken = {"cut": whole[:500], "empty": "", "list": "[1]", "other": "{}", "number": '{"measurements": 3}'}
    for name, text in broken.items():
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    (folder / "folder.json").mkdir()
    assert _runner.table_of_records(tmp_path) == expected
    said = capsys.readouterr().err.splitlines()
    assert [Path(line.partition(": ")[2].partition(": ")[0]).stem for line in said] == sorted([*broken, "folder"])
