"""Test what is asked of a hub, what is taken from its cache, and what is said where it fails."""

import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from floe_bench.harness.errors import UsageError
from floe_bench.harness.hub import snapshot

from ..hub import FIRST, SECOND, Hub, client_of, serving

FILES = {"README.md": b"", "config.json": b"{}", "a.safetensors": b"0123456789", "notes.txt": b"not wanted"}
WANTED = ["*.json", "*.safetensors"]


@pytest.fixture
def hub(tmp_path):
    """A hub of one model, whose main branch is at the second of its two commits."""
    repositories = {"models/org/model": {FIRST: FILES, SECOND: {**FILES, "config.json": b'{"a": 1}'}}}
    with serving(Hub(repositories)) as hub, client_of(hub, tmp_path):
        yield hub


def fetch(revision: str | None = FIRST, name: str = "org/model", **options) -> Path:
    return snapshot("model", name, revision, WANTED, **options)


def refused(revision: str | None = FIRST, name: str = "org/model", **options) -> str:
    with pytest.raises(UsageError) as caught:
        fetch(revision, name, **options)
    sentence = str(caught.value)
    assert "--model-path" in sentence and "smoke" in sentence and "\n" not in sentence
    return sentence


def offline(monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def without_pauses(monkeypatch) -> None:
    """The client tries again after 1, 2, 4, ... seconds."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


# --- what is asked ----------------------------------------------------------------------------------


def test_a_commit_is_fetched_once_and_never_asked_for_again(hub):
    folder = fetch()
    assert folder.name == FIRST
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "config.json": b"{}", "a.safetensors": b"0123456789"
    }  # fmt: skip
    assert hub.asked
    hub.asked.clear()
    assert fetch() == folder
    assert hub.asked == []


def test_a_cached_commit_needs_no_network(hub, monkeypatch):
    folder = fetch()
    offline(monkeypatch)
    assert fetch() == folder


def test_a_branch_asks_for_its_commit_alone(hub):
    folder = fetch(None)
    assert folder.name == SECOND
    hub.asked.clear()
    assert fetch(None) == folder
    assert hub.asked == ["GET /api/models/org/model"]


def test_more_files_of_a_cached_commit_are_fetched(hub):
    snapshot("model", "org/model", FIRST, ["*.json"])
    assert (fetch() / "a.safetensors").read_bytes() == b"0123456789"


@pytest.mark.parametrize("silence", ["offline", "closed", 500, 429])
def test_a_silent_hubs_branch_is_the_one_in_the_cache(hub, monkeypatch, silence):
    folder = fetch(None)
    if silence == "offline":
        offline(monkeypatch)
    elif silence == "closed":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        hub.fault = lambda path: (silence, {})
    assert fetch(None) == folder


def test_a_commit_that_the_hub_names_but_cannot_give_is_never_an_older_one(hub):
    fetch(None)
    hub.repositories["models/org/model"]["3" * 40] = {**FILES, "config.json": b'{"a": 2}'}
    hub.fault = lambda path: (404, {}) if "/resolve/" in path else None
    assert "not found" in refused(None)


def test_a_commit_is_never_another_commit(hub, monkeypatch):
    """The cache holds the second commit only: it must not stand in for the first."""
    fetch(None)
    offline(monkeypatch)
    assert f"revision {FIRST} is not in the hub's cache" in refused(FIRST)


def test_a_hub_that_takes_a_repository_back_is_believed(hub):
    fetch(None)
    hub.repositories.clear()
    assert "model org/model is not found on the hub, or it is private" in refused(None)


# --- a folder that an older client left -------------------------------------------------------------


def test_a_folder_without_a_list_of_its_files_is_judged_by_whoever_knows(hub, monkeypatch):
    folder = fetch()
    for listing in (folder.parents[1] / "trees").iterdir():
        listing.unlink()
    monkeypatch.setattr("huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE", {})
    hub.asked.clear()
    assert fetch(is_whole=lambda folder: (folder / "a.safetensors").is_file()) == folder
    assert hub.asked == []
    offline(monkeypatch)
    assert "is not known to be whole in the hub's cache" in refused()


# --- broken files in the cache ----------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def alter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[::-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [("a.safetensors", cut), ("config.json", cut), ("a.safetensors", alter), ("a.safetensors", Path.unlink)],
)
def test_a_broken_file_in_the_cache_is_fetched_anew(hub, monkeypatch, name, damage):
    file = fetch() / name
    damage(file.resolve())
    with monkeypatch.context() as without:
        offline(without)
        assert f"has {name} missing or broken in the hub's cache" in refused()
    assert (fetch() / name).read_bytes() == FILES[name]
    hub.asked.clear()
    fetch()
    assert hub.asked == []


# --- what is said -----------------------------------------------------------------------------------


def test_offline_with_nothing_cached_says_what_is_missing_where(hub, monkeypatch):
    offline(monkeypatch)
    sentence = refused()
    assert f"model org/model at revision {FIRST} is not in the hub's cache {constants.HF_HUB_CACHE}" in sentence
    assert "HF_HUB_OFFLINE" in sentence
    assert hub.asked == []


FAULTS = [
    ((404, {}), "model org/model at revision .* is not found on the hub"),
    ((404, {"X-Error-Code": "RevisionNotFound"}), "model org/model at revision .* is not found on the hub"),
    ((401, {"X-Error-Code": "RepoNotFound"}), "is not found on the hub, or it is private .401; no token was sent"),
    ((401, {"X-Error-Code": "GatedRepo"}), "is gated .*no token was sent.*accept its licence.*hf auth login"),
    ((403, {"X-Error-Code": "GatedRepo"}), "is gated .*accept its licence"),
    ((401, {}), "refuses model org/model .*401; no token was sent.*hf auth login"),
    ((403, {}), "refuses model org/model .*403; no token was sent.*hf auth login"),
    ((429, {"Retry-After": "3600"}), "too many requests .*wait"),
    ((500, {}), "the hub cannot give model org/model .*.500"),
    ((503, {}), "the hub cannot give model org/model .*.503"),
    ("portal", "what answers at http://127.0.0.1:.* is no hub"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS, ids=str)
def test_each_answer_has_its_sentence_at_once(hub, fault, said):
    hub.fault = lambda path: fault
    assert re.search(said, refused())
    assert len(hub.asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["/revision/", "/tree/", "/resolve/"])
def test_a_hub_that_hangs_is_not_waited_for_for_ever(hub, monkeypatch, where):
    without_pauses(monkeypatch)
    with monkeypatch.context() as impatient:
        impatient.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        hub.fault = lambda path: "hang" if where in path else None
        assert "kept silent for 0.2 s" in refused()
    hub.fault = lambda path: None
    fetch()


def test_a_name_or_commit_that_is_not_there_is_not_found(hub):
    assert f"model org/modl at revision {FIRST} is not found" in refused(name="org/modl")
    assert f"model org/model at revision {'3' * 40} is not found" in refused("3" * 40)
    with pytest.raises(UsageError, match="'a/b/c' cannot be a model on the hub"):
        fetch(name="a/b/c")


def test_no_hub_at_the_address_is_said_with_the_address(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be fetched from the hub at http://127.0.0.1:9" in refused()


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9", "http://[", "nonsense"])
def test_an_address_that_is_none_is_said(hub, monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert endpoint in refused()


def test_the_token_that_was_sent_is_named_and_never_shown(hub, monkeypatch):
    hub.fault = lambda path: (401, {})
    Path(constants.HF_TOKEN_PATH).write_text("hf_stored")
    sentence = refused()
    assert f"the token in {constants.HF_TOKEN_PATH} was sent" in sentence and "hf_stored" not in sentence
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sentence = refused()
    assert "the token in HF_TOKEN was sent" in sentence and "hf_secret" not in sentence
    assert hub.tokens == {"Bearer hf_stored", "Bearer hf_secret"}


def test_a_transfer_that_is_cut_says_so_and_the_next_one_mends_it(hub, monkeypatch):
    without_pauses(monkeypatch)
    hub.fault = lambda path: "cut" if path.endswith("a.safetensors") else None
    assert "peer closed connection" in refused()
    hub.fault = lambda path: None
    assert (fetch() / "a.safetensors").read_bytes() == FILES["a.safetensors"]


def test_a_cache_that_cannot_be_written_is_said(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert "cannot be kept in the hub's cache" in refused()
