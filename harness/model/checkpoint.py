"""Hold a folder's weights against the model that its configuration describes, before anything is trained.

transformers starts a weight that is missing at random, and drops one that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"


def load_checked(folder: Path, **options: Any) -> PreTrainedModel:
    """Load a causal language model from a folder. `options` go to `from_pretrained`.

    With device_map="meta" only names and shapes are read.

    Raises:
        UsageError: a weight is missing, surplus, misshapen, or tied against the configuration; or a file of weights is
            missing or broken.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _check_shards(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of keys is said here in one sentence
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, trust_remote_code=False, **options
        )
        model, info = loaded
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise _refusal(folder, f"cannot be loaded ({_first_line(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    misshapen = [name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]]
    for names, fault in (
        (info["missing_keys"], "lack"),
        (info["unexpected_keys"], "hold, and the model of config.json has not,"),
        (misshapen, "have another shape than config.json says of"),
    ):
        if names:
            raise _refusal(folder, f"{fault} {_named(sorted(names))}{_about_ties(names, model)}")
    return model


def check_ties(folder: Path, model: PreTrainedModel) -> None:
    """Raise UsageError where config.json ties two weights that the folder holds with different values."""
    import torch

    stored = {name: file for file in _weight_files(folder) for name in _names(file)}
    for target, source in model.all_tied_weights_keys.items():
        both = target in stored and source in stored
        if both and not torch.equal(_tensor(stored[target], target), _tensor(stored[source], source)):
            raise _refusal(
                folder,
                f"hold different values for {target} and {source}, and config.json ties the two: set "
                '"tie_word_embeddings": false there, or save the model again',
            )


def check_finite(folder: Path, model: PreTrainedModel) -> None:
    """Raise UsageError where a loaded weight is NaN or infinite."""
    odd = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if odd:
        raise _refusal(folder, f"hold NaN or infinity in {_named(odd)}")


def _check_shards(folder: Path) -> None:
    """Raise UsageError where the index cannot be read, or names a file that is not there."""
    index = folder / INDEX
    if not index.is_file():
        return
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _refusal(folder, f"have no readable {INDEX} ({_first_line(error)})") from error
    gone = sorted(name for name in shards if not (folder / name).is_file())
    if gone:
        raise _refusal(folder, f"lack the file {_named(gone)}, which {INDEX} names")


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _names(file: Path) -> Iterator[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        yield from weights.keys()


def _tensor(file: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        return weights.get_tensor(name)


def _about_ties(names: Sequence[str], model: PreTrainedModel) -> str:
    """Say what may be meant where only the output layer is in question."""
    head = {f"{name}.weight" for name, module in model.named_modules() if module is model.get_output_embeddings()}
    if set(names) == head:
        return ': if it shares the embedding\'s weights, config.json must say "tie_word_embeddings": true'
    return ""


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _refusal(folder: Path, fault: str) -> UsageError:
    return UsageError(f"the weights in {folder} {fault}")
