"""Test models of the hub: found in its cache without asking, and refused where they are no models."""

import pytest
from huggingface_hub import constants

from floe_bench.harness.errors import UsageError
from floe_bench.harness.model import base
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.spec.settings import ModelSettings

from ...hub import FIRST, Hub, client_of, serving


def settings(**values) -> ModelSettings:
    return load("tiny").model.model_copy(update={"source": "hub", "id": "org/model", "revision": FIRST, **values})


def loaded(settings):
    return base.load_model(settings), base.load_tokenizer(settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The files of the model of `tiny`, its weights in two shards."""
    folder = tmp_path_factory.mktemp("model")
    model, tokenizer = loaded(load("tiny").model)
    model.save_pretrained(folder, max_shard_size="40KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path, files):
    with serving(Hub({"models/org/model": {FIRST: files}})) as hub, client_of(hub, tmp_path):
        yield hub


def test_a_pinned_and_cached_model_loads_without_the_hub(hub):
    ref = base.locate(settings())
    assert ref.identity == FIRST
    hub.asked.clear()
    model, _ = loaded(settings())
    assert hub.asked == []
    ours, _ = loaded(load("tiny").model)
    assert all(weights.equal(ours.get_parameter(name)) for name, weights in model.named_parameters())


def by_an_older_client(ref: base.ModelRef, monkeypatch) -> None:
    """Leave the cache as clients did that kept no list of a commit's files."""
    assert ref.folder is not None
    for listing in (ref.folder.parents[1] / "trees").iterdir():
        listing.unlink()
    monkeypatch.setattr("huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE", {})


def test_a_model_that_an_older_client_cached_whole_asks_nothing(hub, monkeypatch):
    ref = base.locate(settings())
    by_an_older_client(ref, monkeypatch)
    hub.asked.clear()
    assert base.locate(settings()) == ref
    assert hub.asked == []


@pytest.mark.parametrize("gone", ["model-00002-of-00002.safetensors", "config.json", "tokenizer.json"])
def test_what_an_older_client_left_out_is_fetched(hub, files, monkeypatch, gone):
    ref = base.locate(settings())
    by_an_older_client(ref, monkeypatch)
    assert ref.folder is not None
    (ref.folder / gone).unlink()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UsageError, match="not known to be whole in the hub's cache"):
            base.locate(settings())
    base.locate(settings())
    assert (ref.folder / gone).read_bytes() == files[gone]


@pytest.mark.parametrize("kept", ["config.json tokenizer.json pytorch_model.bin", "model.safetensors config.json"])
def test_a_repository_without_weights_or_tokenizer_is_refused(hub, files, kept):
    hub.repositories["models/org/model"][FIRST] = {name: files.get(name, b"") for name in kept.split()}
    with pytest.raises(UsageError, match=r"model org/model of the hub lacks .*--model-path"):
        base.locate(settings())
