"""Files written whole or not at all, and digests of content alone."""

import hashlib
import json
import os

import pytest

from floe_bench.harness import files


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


def test_a_written_file_can_be_read_by_all(tmp_path):
    files.write_text(tmp_path / "note", "x")
    assert (tmp_path / "note").stat().st_mode & 0o777 == 0o644


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
