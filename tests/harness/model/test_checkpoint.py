"""Folders whose weights, configuration or tokenizer do not belong together: refused with names, never guessed."""

import re
from typing import Any

import pytest
import torch

from floe_bench.harness.errors import UsageError
from floe_bench.harness.model import base
from floe_bench.harness.model.base import byte_tokenizer
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.spec.settings import ModelSettings

from ..families import config_of
from .folders import saved, with_config, with_weights, written

LAYER = "model.layers.2.mlp.up_proj.weight"


def settings(folder) -> ModelSettings:
    return load("tiny").model.model_copy(update={"path": str(folder)})


def refusal(folder) -> str:
    """What is said before anything is loaded; the same fault is found where the weights are loaded."""
    with pytest.raises(UsageError) as early:
        base.check_weights(settings(folder))
    assert str(folder) in str(early.value) and len(str(early.value).splitlines()) == 1
    return str(early.value)


def test_a_whole_folder_is_the_model_that_transformers_loads(tmp_path):
    from transformers import AutoModelForCausalLM

    folder = saved(tmp_path)
    base.check_weights(settings(folder))
    stock = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(20)[None]
    assert torch.equal(base.load_model(settings(folder)).cpu()(ids).logits, stock(ids).logits)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop(LAYER), f"lack {LAYER}"),
        (lambda w: [w.pop(name) for name in list(w) if ".mlp." in name], "lack .* and 6 more"),
        (lambda w: w.update({"model.layers.2.mlp.other.weight": torch.zeros(3)}), r"hold, .*\.mlp\.other\.weight"),
        (lambda w: w.update({LAYER: torch.zeros(3, 3)}), f"another shape than config.json says of {LAYER}"),
        (lambda w: w.pop("lm_head.weight"), 'lack lm_head.weight: .*"tie_word_embeddings": true'),
    ],
    ids=["missing", "many", "surplus", "misshapen", "no head"],
)
def test_weights_that_are_not_the_configurations_are_named(tmp_path, change, said):
    folder = with_weights(saved(tmp_path), change)
    assert re.search(said, refusal(folder))
    with pytest.raises(UsageError, match=said):
        base.load_model(settings(folder))


def test_a_tied_configuration_with_another_head_is_refused(tmp_path):
    folder = with_config(saved(tmp_path), tie_word_embeddings=True)
    assert '"tie_word_embeddings": false' in refusal(folder)


@pytest.mark.parametrize(("family", "prefix", "other"), [("gpt2", "transformer.", ""), ("opt", "model.", "")])
def test_another_head_is_found_under_the_names_of_older_files_too(family, prefix, other, tmp_path):
    folder = with_weights(saved(tmp_path, family, hidden_size=16), lambda w: renamed(w, prefix, other))
    base.check_weights(settings(folder))
    with_weights(folder, lambda w: w.update({"lm_head.weight": torch.randn(259, 16)}))
    assert '"tie_word_embeddings": false' in refusal(folder)


def test_another_head_is_found_in_a_folder_of_several_inputs(tmp_path):
    folder = written(tmp_path, config_of("gemma3"))
    base.check_weights(settings(folder))
    with_weights(folder, lambda w: w.update({"language_model.lm_head.weight": torch.randn(260, 16)}))
    assert '"tie_word_embeddings": false' in refusal(folder)


@pytest.mark.parametrize(("family", "prefix"), [("gpt2", ""), ("gpt2", "transformer."), ("gptj", "transformer.")])
def test_causal_masks_of_older_files_are_no_surplus_and_other_constants_are(family, prefix, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = written(tmp_path, config_of(family))
    ids = torch.arange(30)[None]
    expected = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    mask = torch.ones(1, 1, 512, 512, dtype=torch.bool).tril()
    masks = {"attn.bias": mask, "attn.masked_bias": torch.tensor(-1e4)}
    with_weights(folder, lambda w: renamed(w, "transformer.", prefix))
    with_weights(folder, lambda w: w.update({f"{prefix}h.0.{name}": value for name, value in masks.items()}))
    base.check_weights(settings(folder))
    assert torch.equal(base.load_model(settings(folder)).cpu()(ids).logits, expected)
    if family == "gptj":  # of GPT-2's, transformers itself says nothing
        with_weights(folder, lambda w: w.update({f"{prefix}h.0.attn.bias": ~mask}))
        assert "hold, and the model of config.json has not, " in refusal(folder)


def renamed(weights: dict[str, torch.Tensor], prefix: str, other: str) -> None:
    """Give the weights under one prefix another."""
    for name in [name for name in weights if name.startswith(prefix)]:
        weights[other + name.removeprefix(prefix)] = weights.pop(name)


def test_tied_weights_that_are_equal_or_stored_once_are_fine(tmp_path):
    folder = saved(tmp_path, tie_word_embeddings=True)
    base.check_weights(settings(folder))
    with_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    base.check_weights(settings(folder))
    model: Any = base.load_model(settings(folder))
    assert torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    folder = with_weights(saved(tmp_path), lambda w: w[LAYER].view(-1)[5:6].fill_(value))
    with pytest.raises(UsageError, match=f"NaN or infinity in {LAYER}"):
        base.load_model(settings(folder))


@pytest.mark.parametrize("size", [0, 5, 300])
def test_a_cut_file_of_weights_is_refused(tmp_path, size):
    weights = saved(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert "cannot be loaded" in refusal(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    folder = saved(tmp_path / "whole")
    model = base.load_model(settings(folder))
    model.save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    base.check_weights(settings(folder))
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    assert f"lack the file {gone.name}" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "no readable model.safetensors.index.json" in refusal(folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no config.json there"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "only an adapter there"),
        ({"config.json": "{}"}, "no *.safetensors there"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "only weights as pickle, which can run code"),
        ({"config.json": "{}", "model.safetensors": "", "tokenizer.model": ""}, "no tokenizer.json there"),
    ],
)
def test_a_folder_that_is_no_whole_model_says_what_it_lacks(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"model_type": "llamma"}', '{"hidden_size": 3}', "\ufeff{}"])
def test_a_broken_configuration_is_refused(tmp_path, content):
    (saved(tmp_path) / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json describes no model") as refused:
        base.architecture(settings(tmp_path))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("known", [False, True])
def test_a_folders_code_is_never_run_nor_asked_about(tmp_path, known, monkeypatch):
    trace = tmp_path / "ran"
    folder = saved(tmp_path / "model")
    (folder / "modeling_own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    code = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M", "AutoTokenizer": "modeling_own.T"}
    with_config(folder, auto_map=code, **({} if known else {"model_type": "own"}))
    with_config(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.T", None]})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    if known:
        base.load_model(settings(folder))
        base.load_tokenizer(settings(folder))
    else:
        with pytest.raises(UsageError, match="describes no model that transformers knows"):
            base.architecture(settings(folder))
    assert not trace.exists()


# --- the tokenizer ----------------------------------------------------------------------------------


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    tokenizer = byte_tokenizer.__wrapped__()
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match="has no EOS token"):
        base.load_tokenizer(settings(saved(tmp_path, tokenizer=tokenizer)))


def test_a_tokenizer_without_padding_pads_with_eos(tmp_path):
    tokenizer = byte_tokenizer.__wrapped__()
    tokenizer.pad_token = None
    assert base.load_tokenizer(settings(saved(tmp_path, tokenizer=tokenizer))).pad_token_id == 257


@pytest.mark.parametrize("vocab_size", [258, 200])
def test_tokens_beyond_the_embedding_are_refused(tmp_path, vocab_size):
    folder = saved(tmp_path, vocab_size=vocab_size, bos_token_id=1, eos_token_id=1, pad_token_id=None)
    with pytest.raises(UsageError, match=rf"'<pad>' with id 258, and the model's embedding has {vocab_size} rows"):
        base.load_tokenizer(settings(folder))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_tokenizer_is_refused(tmp_path, content):
    (saved(tmp_path) / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=r"the tokenizer in .* cannot be loaded") as refused:
        base.load_tokenizer(settings(tmp_path))
    assert len(str(refused.value).splitlines()) == 1
