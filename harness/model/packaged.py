"""Weights that an installed package brings as GGUF, and their copy as safetensors in the cache."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import (
    ELSEWHERE,
    atomic_folder,
    cache_folder,
    differing,
    file_digests,
    read_json,
    remembered_digest,
    set_aside,
    write_json,
)

DIGESTS = "digests.json"
"""File within the copy: name -> sha256 of every other file of it."""


def gguf_file(package: str | None) -> Path:
    """Return the GGUF file of an installed package. Raises UsageError where the package or the file is missing."""
    if not package or "." in package:
        raise UsageError("model.source is 'packaged': name the package that brings the weights with model.package")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"the weights come in the package {package}, which is not installed: "
            "run ./reproduce.sh, which installs it, or give --model-path"
        )
    found = sorted(Path(spec.origin).parent.rglob("*.gguf"))
    if len(found) != 1:
        raise UsageError(f"the package {package} holds {len(found)} GGUF files; one was expected: give --model-path")
    return found[0]


@cache
def dequantised(package: str | None) -> Path:
    """Return the folder of the package's weights as plain bfloat16 safetensors. Convert them where that is not done.

    A copy that is not as it was written is set aside. The digests are held once a process.

    Raises:
        UsageError: the package is missing.
        StorageError: the cache cannot be written.
    """
    file = gguf_file(package)
    folder = cache_folder() / "models" / f"{file.stem}-{remembered_digest(file)[:16]}"
    if folder.exists() and (fault := _fault(folder)):
        aside = set_aside(folder)
        print(f"floe-bench: {folder}: {fault}; set aside as {aside.name}, and made again", file=sys.stderr)
    if not folder.exists():
        with atomic_folder(folder, ELSEWHERE) as temporary:
            _convert(file, temporary)
            write_json(temporary / DIGESTS, file_digests(temporary))
    return folder


def _fault(folder: Path) -> str | None:
    """Return what is wrong with a copy, or None."""
    try:
        digests = read_json(folder / DIGESTS)
    except (OSError, ValueError):
        return f"its {DIGESTS} cannot be read"
    return differing(folder, digests) if isinstance(digests, dict) else f"its {DIGESTS} holds no digests"


def _convert(file: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as transformers saves them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
