"""Weights that come in a package: found by name, converted once, and never believed when they are broken."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from floe_bench.harness.errors import StorageError, UsageError
from floe_bench.harness.model import packaged


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[str]:
    """An installed package with something in the place of a GGUF file, whose conversion copies it."""
    folder = tmp_path / "site" / "own_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('a package of weights is not imported')")
    (folder / "own.gguf").write_bytes(b"weights")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_convert", convert)
    packaged.dequantised.cache_clear()
    yield folder.name
    packaged.dequantised.cache_clear()


def convert(file: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(file.read_bytes())
    (folder / "config.json").write_text("{}")


def again(package: str) -> Path:
    """As another process would find it."""
    packaged.dequantised.cache_clear()
    return packaged.dequantised(package)


def test_weights_are_converted_once(package, monkeypatch):
    folder = packaged.dequantised(package)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    monkeypatch.setattr(packaged, "_convert", lambda *_: pytest.fail("converted again"))
    assert again(package) == folder


@pytest.mark.parametrize("name", ["model.safetensors", packaged.DIGESTS])
@pytest.mark.parametrize("content", [None, b"", b"weighty", b"[]"])
def test_a_broken_copy_is_set_aside_and_made_again(name, content, package, capsys):
    folder = packaged.dequantised(package)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert again(package) == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"its {name} " in said and f"set aside as {folder.name}.broken" in said
    assert folder.with_name(f"{folder.name}.broken").is_dir()
    assert again(package) == folder and not capsys.readouterr().err


def test_a_copy_holds_the_digests_of_all_its_files(package):
    digests = json.loads((packaged.dequantised(package) / packaged.DIGESTS).read_text())
    assert set(digests) == {"model.safetensors", "config.json"}


def test_a_conversion_that_is_cut_leaves_nothing(package, tmp_path, monkeypatch):
    def cut(file: Path, folder: Path) -> None:
        convert(file, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "_convert", cut)
    with pytest.raises(KeyboardInterrupt):
        packaged.dequantised(package)
    assert list((tmp_path / "cache" / "floe-bench" / "models").iterdir()) == []


def test_a_cache_that_cannot_be_written_says_where_else(package, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="point XDG_CACHE_HOME at another folder"):
        packaged.dequantised(package)


@pytest.mark.parametrize(
    ("package", "said"),
    [
        (None, "name the package"),
        ("", "name the package"),
        ("no.such", "name the package"),
        ("no_such_weights", "which is not installed"),
        ("json", "holds 0 GGUF files"),
    ],
)
def test_a_package_without_weights_is_refused(package, said):
    with pytest.raises(UsageError, match=said):
        packaged.gguf_file(package)
