"""Files written whole or not at all, JSON that says one thing, and digests of content alone."""

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from floe_bench.harness import files
from floe_bench.harness.errors import StorageError
from floe_bench.harness.store.folder import write_arrays, write_items

from ..disk import largest_file


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def test_an_atomic_write_replaces_the_file_at_the_end_only(tmp_path):
    path = tmp_path / "deep" / "note.json"
    files.write_text(path, "old")
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert names_in(path.parent) == ["note.json"]


def test_a_writer_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), files.atomic(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["note.json"]


def test_a_first_write_that_raises_leaves_an_empty_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.atomic(tmp_path / "note.json"):
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path):
    return path.stat().st_mode & 0o777


def test_whoever_the_umask_lets_read_can_read_what_is_written(tmp_path, umask):
    files.write_text(tmp_path / "note", "x")
    with files.atomic(tmp_path / "weights") as temporary:
        save_file({"w": torch.ones(2)}, temporary)  # safetensors writes for one user alone
    with files.atomic_folder(tmp_path / "model", "") as temporary:
        save_file({"w": torch.ones(2)}, temporary / "weights")
    written = {path.name: permissions(path) for path in (*tmp_path.iterdir(), tmp_path / "model" / "weights")}
    assert written == {"note": 0o666 & ~umask, "weights": 0o666 & ~umask, "model": 0o777 & ~umask}


def test_an_atomic_folder_is_whole_or_absent(tmp_path):
    with pytest.raises(RuntimeError, match="half way"), files.atomic_folder(tmp_path / "model", "") as temporary:
        (temporary / "weights").write_text("w")
        assert names_in(tmp_path) == [temporary.name] and temporary.name.startswith(".")
        raise RuntimeError("half way")
    assert names_in(tmp_path) == []


def test_of_two_who_write_a_folder_the_first_one_wins(tmp_path):
    with files.atomic_folder(tmp_path / "model", "") as second:
        (second / "weights").write_text("second")
        with files.atomic_folder(tmp_path / "model", "") as first:
            (first / "weights").write_text("first")
    assert names_in(tmp_path) == ["model"] and (tmp_path / "model" / "weights").read_text() == "first"


def test_a_folder_that_cannot_be_written_gets_the_advice(tmp_path):
    (tmp_path / "cache").touch()
    with (
        pytest.raises(StorageError, match=r"cache/model cannot be written \(.*\): go elsewhere, and"),
        files.atomic_folder(tmp_path / "cache" / "model", "go elsewhere"),
    ):
        pass


def test_text_is_utf8_whatever_the_locale(tmp_path):
    files.write_text(tmp_path / "note", "ρ = ½\n")
    assert (tmp_path / "note").read_bytes() == "ρ = ½\n".encode()


def test_json_comes_back_with_sorted_keys(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"ρ": True}}
    files.write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.index('"a"') < text.index('"b"')
    assert "ρ" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_json_cannot_hold(tmp_path, number):
    path = tmp_path / "value.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(path, {"nll": number})
    assert path.read_text() == "old"


# --- a disk that refuses ----------------------------------------------------------------------------

WRITERS = {
    "text": lambda path: files.write_text(path, "x" * 10_000),
    "json": lambda path: files.write_json(path, list(range(10_000))),
    "bytes": lambda path: files.write_bytes(path, bytes(10_000)),
    "arrays": lambda path: write_arrays(path, {"G": np.zeros(10_000)}),
    "items": lambda path: write_items(path, pd.DataFrame({"nll": np.random.default_rng(0).random(10_000)})),
}


@pytest.mark.parametrize("write", list(WRITERS.values()), ids=list(WRITERS))
@pytest.mark.parametrize("old", [None, "old"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(write, old, tmp_path):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    with largest_file(1000), pytest.raises(StorageError) as caught:
        write(path)
    sentence = str(caught.value)
    assert str(path) in sentence and "File too large" in sentence and "make room, and run the same" in sentence
    assert "\n" not in sentence
    assert names_in(tmp_path) == (["file"] if old else [])
    assert not old or path.read_text() == old


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"exp_avg": torch.zeros(10_000)}, path),
        lambda path: save_file({"A": torch.zeros(10_000)}, path),
        lambda path: path.write_bytes(bytes(10_000)),
    ],
    ids=["torch", "safetensors", "plain"],
)
def test_what_libraries_say_of_a_full_disk_is_understood(write, tmp_path):
    """They raise errors of their own, as the Trainer's checkpoints and PEFT's adapters meet them."""
    with largest_file(1000), pytest.raises(StorageError, match=r"make room|has room"), files.writing(tmp_path):
        write(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be written"), files.writing(tmp_path):
        write(tmp_path)  # a folder


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "allow it or choose another folder"),
        (errno.EACCES, "allow it or choose another folder"), (errno.EIO, "see that the disk is there"),
        (errno.ENOTCONN, "see that the disk is there"), (errno.ESTALE, "see that the disk is there"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_do(number, advice, tmp_path):
    with pytest.raises(StorageError, match=advice) as caught, files.writing(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("CUDA error"), KeyboardInterrupt()])
def test_other_errors_pass_through(error, tmp_path):
    with pytest.raises(type(error)) as caught, files.writing(tmp_path):
        raise error
    assert caught.value is error


def test_a_file_where_a_folder_should_be_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"note\.json cannot be written"):
        files.write_text(tmp_path / "file" / "note.json", "x")


def test_a_long_name_can_be_written(tmp_path):
    """A temporary name must not be longer than file systems allow where the final one is not."""
    files.write_text(tmp_path / ("x" * 250), "text")
    assert names_in(tmp_path) == ["x" * 250]


# --- reading ----------------------------------------------------------------------------------------


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"a": [1, -2.5, 1e-300, None, True, "ρ", {}], "b": 2**63 - 1, "c": -(2**63)}
    files.write_json(tmp_path / "value.json", value)
    assert files.read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"a": 1', "nan", "NaN", "[Infinity]", '{"a": -Infinity}', "1e400", "[-1e999]", '{"a": 1, "a": 1}',
        '[{"b": {"a": 1, "a": 2}}]', str(2**63), "9" * 5000, "[" * 100_000, "{} {}", "\ufeff{}", "'a'", "[1,]",
        r'"\ud800"', r'{"\uDFFF": 1}',
    ],
    ids=lambda text: text[:20] or "empty",
)  # fmt: skip
def test_json_that_does_not_say_one_thing_is_refused(text, tmp_path):
    path = tmp_path / "value.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError):
        files.read_json(path)


# --- digests ----------------------------------------------------------------------------------------


def test_a_digest_does_not_depend_on_key_order():
    forward = {"a": 1, "b": {"c": [1, 2], "d": "ρ"}}
    backward = {"b": {"d": "ρ", "c": [1, 2]}, "a": 1}
    assert list(forward) != list(backward)
    assert files.digest(forward) == files.digest(backward)


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": [1, 2, 0]}, {"b": [1, 2]}, {"a": ["1", 2]}, {}])
def test_a_digest_depends_on_everything_else(other):
    assert files.digest({"a": [1, 2]}) != files.digest(other)


def test_a_digest_is_the_start_of_a_sha256():
    canonical = '{"a":[1,"ρ"],"b":null}'
    assert files.digest({"b": None, "a": [1, "ρ"]}) == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_a_file_digest_is_the_sha256_of_its_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the vector of FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.file_digest(tmp_path / "abc") == expected


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "floe-bench"


def test_the_cache_folder_follows_xdg(cache):
    assert files.cache_folder() == cache


def test_a_relative_cache_folder_is_ignored_as_xdg_has_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert files.cache_folder() == Path("/home/somebody/.cache/floe-bench")


def test_without_a_home_folder_digests_are_not_remembered(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # a container's user of no name
    (tmp_path / "weights").write_bytes(b"abc")
    assert files.remembered_digest(tmp_path / "weights") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(StorageError, match=r"no home folder .* XDG_CACHE_HOME"):
        files.cache_folder()


def test_a_remembered_digest_is_not_computed_twice(tmp_path, cache, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    first = files.remembered_digest(path)
    assert first == hashlib.sha256(b"abc").hexdigest()
    monkeypatch.setattr(files, "file_digest", lambda path: pytest.fail("read the file again"))
    assert files.remembered_digest(path) == first


def test_a_remembered_digest_notices_a_change_of_size(tmp_path, cache):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    files.remembered_digest(path)
    stat = path.stat()
    path.write_bytes(b"abcd")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert files.remembered_digest(path) == hashlib.sha256(b"abcd").hexdigest()


def test_a_remembered_digest_notices_a_change_of_the_same_size(tmp_path, cache):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    files.remembered_digest(path)
    stat = path.stat()
    path.write_bytes(b"xyz")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    assert files.remembered_digest(path) == hashlib.sha256(b"xyz").hexdigest()


@pytest.mark.parametrize("memo", [b"", b"ab", b"\xff", b"0" * 63, b"0" * 63 + b"\n", None])
def test_a_remembered_digest_that_was_torn_is_computed_anew(memo, tmp_path, cache):
    """None puts a folder in its place, which cannot be mended."""
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    expected = files.remembered_digest(path)
    (file,) = (cache / "digests").iterdir()
    if memo is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(memo)
    assert files.remembered_digest(path) == expected == hashlib.sha256(b"abc").hexdigest()
    assert memo is None or file.read_text() == expected


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"abc")
    assert files.remembered_digest(tmp_path / "weights") == hashlib.sha256(b"abc").hexdigest()


def test_file_digests_name_files_from_the_folder(tmp_path):
    files.write_text(tmp_path / "adapter" / "deep" / "a", "abc")
    files.write_text(tmp_path / "b", "")
    abc, nothing = hashlib.sha256(b"abc").hexdigest(), hashlib.sha256(b"").hexdigest()
    assert files.file_digests(tmp_path, "adapter") == {"adapter/deep/a": abc}
    assert files.file_digests(tmp_path) == {"adapter/deep/a": abc, "b": nothing}
    assert files.file_digests(tmp_path, "none") == {}
