"""Folders of every model family through `plan` and one cell each of two methods: it works, or `plan` refuses it."""

import contextlib
import io
import json
import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from floe_bench.harness.cli.main import main
from floe_bench.harness.errors import UsageError
from floe_bench.harness.floe.decoder import LINEAR, decoder_layers
from floe_bench.harness.floe.feed_forward import FEED_FORWARD, GATED
from floe_bench.harness.model import base
from floe_bench.harness.spec.profiles import load

from ...command import NLL_ALONE, libraries_as_they_were
from ..families import FAMILIES, config_of
from .folders import saved, with_config, written

SMALL = (*NLL_ALONE, "--set", "eval.nll_mixes=dolly", "--set", "search.trials=1", "--set", "search.r_max=2")


def command(verb, folder, results, *arguments) -> tuple[int, str, str]:
    """The exit code of `floe-bench VERB tiny` on the folder, and what it says on stdout and stderr."""
    said, complained = io.StringIO(), io.StringIO()
    grid = ("--mixes", "dolly", "--methods", "lora,floe", "--model-path", str(folder), "--results", str(results))
    with libraries_as_they_were(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = main([verb, "tiny", *grid, *SMALL, *arguments])
    return code, said.getvalue(), complained.getvalue()


def refusal(folder, results, *arguments) -> str:
    """The one sentence with which `plan` refuses the folder. Nothing is written."""
    code, said, complained = command("plan", folder, results, *arguments)
    assert (code, said, len(complained.splitlines())) == (2, "", 1), complained
    assert not results.exists()
    return complained


def cells(folder, results, *arguments) -> dict[str, dict]:
    """The records of both cells, after a plan that says the same."""
    code, table, complained = command("plan", folder, results, *arguments)
    assert code == 0, complained
    code, _, complained = command("run", folder, results, *arguments)
    assert code == 0, complained
    records = [json.loads(path.read_text()) for path in (results / "tiny" / "records").iterdir()]
    found = {record["cell"]["method"]: record for record in records}
    for record in found.values():
        targets = record["settings"]["adapter"]["target_modules"]
        assert record["status"] == "ok" and sorted(record["plan"]["peft_config"]["target_modules"]) == sorted(targets)
        assert f"{record['plan']['trainable_parameters']:,}" in table
        assert f"adapt {', '.join(sorted(targets))}" in table
    assert found.keys() == {"lora", "floe"}
    return found


WITHOUT_LINEAR_FEED_FORWARD = {
    "mamba": ("in_proj",),
    "mixtral": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen2_moe": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen3_moe": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
"""Families whose targets must be said, and those that `plan` offers."""


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - WITHOUT_LINEAR_FEED_FORWARD))
def test_the_feed_forward_of_a_family_is_adapted_under_its_own_names(family, tmp_path):
    found = cells(written(tmp_path / "model", config_of(family)), tmp_path / "results")
    for record in found.values():
        assert tuple(record["settings"]["adapter"]["target_modules"]) == FEED_FORWARD.get(family, GATED)
    assert len(found["floe"]["plan"]["scores"]["fisher"]) == 3 and min(found["floe"]["plan"]["scores"]["fisher"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(WITHOUT_LINEAR_FEED_FORWARD))
def test_where_there_is_no_linear_feed_forward_the_plan_says_what_there_is(family, tmp_path):
    folder, results = written(tmp_path / "model", config_of(family)), tmp_path / "results"
    said = refusal(folder, results)
    offer = re.search(r"--set (adapter\.target_modules=(\S+))", said)
    assert offer and tuple(offer[2].split(",")) == WITHOUT_LINEAR_FEED_FORWARD[family]
    assert ("experts fused into mlp.experts." in said) == (family != "mamba")
    cells(folder, results, "--set", offer[1])


def test_what_is_given_is_taken_or_refused_and_never_replaced(tmp_path):
    opt, mamba = (written(tmp_path / family, config_of(family)) for family in ("opt", "mamba"))
    given = ("--set", f"adapter.target_modules={','.join(GATED)}")
    assert "'down_proj' matches no linear module" in refusal(opt, tmp_path / "results", *given)
    code, table, _ = command("plan", opt, tmp_path / "results", "--set", "adapter.target_modules=q_proj")
    assert code == 0 and "lora, floe adapt q_proj of their layers." in table
    # A kernel would read its weight past the adapter.
    assert "have in_proj:" in refusal(mamba, tmp_path / "results", "--set", "adapter.target_modules=in_proj,x_proj")


def test_the_shared_expert_is_adapted_alone_where_it_is_named(tmp_path):
    folder, results = written(tmp_path / "model", config_of("qwen2_moe")), tmp_path / "results"
    assert "'down_proj' is mlp.shared_expert.down_proj alone" in refusal(folder, results)
    named = ("--set", "adapter.target_modules=shared_expert.up_proj,shared_expert.down_proj")
    assert command("plan", folder, results, *named)[0] == 0


def test_every_family_of_the_table_has_the_modules_of_the_table():
    for family, targets in FEED_FORWARD.items():
        two = {"attention_types": [[["global", "local"], 1]]} if family == "gpt_neo" else {}
        other = family not in FAMILIES
        tiny = AutoConfig.for_model(family, num_hidden_layers=2, **two) if other else config_of(family)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(tiny)
        for layer in decoder_layers(model):
            names = [name for name, module in layer.named_modules() if isinstance(module, LINEAR)]
            found = [[name for name in names if f".{name}".endswith(f".{target}")] for target in targets]
            assert [len(of_target) for of_target in found] == [1] * len(targets), family
            # Nothing of the feed-forward is left out: what remains is attention, with its own output projection.
            rest = {name for name in names if [name] not in found}
            assert all(re.search("attn|attention", name) for name in rest), (family, rest)


# --- refused for what they are --------------------------------------------------------------------


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_is_refused(family, tmp_path):
    small = {"d_model": 16, "vocab_size": 260, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "d_ff": 24}
    folder = written(tmp_path / "model", AutoConfig.for_model(family, **small))
    assert f"is an encoder-decoder ({family})" in refusal(folder, tmp_path / "results")


@pytest.mark.parametrize(("family", "said_by"), [("bert", {}), ("gemma3_text", {"use_bidirectional_attention": True})])
def test_a_model_that_reads_in_both_directions_is_refused(family, said_by, tmp_path):
    assert "in both directions" in refusal(saved(tmp_path / "model", family, **said_by), tmp_path / "results")


@pytest.mark.parametrize(
    "quantised",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
    ],
    ids=lambda quantised: quantised["quant_method"],
)
@pytest.mark.parametrize("family", ["llama", "mistral3"])
def test_quantised_weights_are_refused(quantised, family, tmp_path):
    folder = tmp_path / "model"
    folder = saved(folder) if family == "llama" else written(folder, config_of(family))
    with_config(folder, quantization_config=quantised)
    said = refusal(folder, tmp_path / "results")
    assert f"are quantised ({quantised['quant_method']})" in said and "model.dequantize()" in said


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rows_longer_than_the_models_window_are_refused(family, tmp_path):
    folder = saved(tmp_path / "model", family, max_position_embeddings=200, n_positions=200)
    said = refusal(folder, tmp_path / "results")
    assert f"data.max_length is 256, and a {family} of this configuration reads 200 tokens" in said
    assert command("plan", folder, tmp_path / "results", "--set", "data.max_length=200")[0] == 0


def test_layers_that_share_keys_and_values_are_refused():
    shared = AutoConfig.for_model(
        "gemma4_text", num_hidden_layers=4, num_kv_shared_layers=2, layer_types=["full_attention"] * 4
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shared)
    with pytest.raises(UsageError, match="those of a gemma4_text share keys and values"):
        base.check_layers(model)


# --- what a folder of several inputs holds ---------------------------------------------------------


@pytest.mark.parametrize("family", ["gemma3", "mistral3"])
def test_the_text_model_of_a_folder_of_several_inputs_is_loaded_alone(family, tmp_path):
    folder = written(tmp_path / "model", config_of(family))
    settings = load("tiny").model.model_copy(update={"path": str(folder)})
    whole = AutoModelForImageTextToText.from_pretrained(folder).eval()
    text = base.load_model(settings).cpu()
    ids = torch.arange(30)[None]
    assert torch.equal(text(ids).logits, whole(input_ids=ids).logits)
    names = [name for name, _ in text.named_parameters()]
    assert names == [name for name, _ in base.on_meta(settings).named_parameters()]
    assert not any("vision" in name for name in names)
    text.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(ids).logits, text(ids).logits)


@pytest.mark.parametrize(("family", "ties"), [("gemma3", True), ("mistral3", False)])
def test_where_a_folder_of_several_inputs_says_nothing_its_text_model_says_what_is_tied(family, ties, tmp_path):
    """Published folders leave it out, and both classes around the text model tie by default."""
    folder = written(tmp_path / "model", config_of(family))
    settings = load("tiny").model.model_copy(update={"path": str(folder)})
    expected = base.load_model(settings).cpu()(torch.arange(30)[None]).logits
    content = json.loads((folder / "config.json").read_text())
    for of in (content, content["text_config"]):
        of.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(content))
    base.check_weights(settings)
    for model in (base.load_model(settings).cpu(), base.on_meta(settings)):
        assert model.config.tie_word_embeddings == ties
        assert len([p for p in model.parameters() if p.shape == (260, 16)]) == (1 if ties else 2)
    assert torch.equal(base.load_model(settings).cpu()(torch.arange(30)[None]).logits, expected)
