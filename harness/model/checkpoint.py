"""Hold a folder's weights against the model that its configuration describes, before anything is trained.

transformers starts a weight that is missing at random, and drops one that it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness.errors import UsageError
from floe_bench.harness.model.shape import config_in, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"


def load_checked(folder: Path, **options: Any) -> PreTrainedModel:
    """Load a causal language model from a folder. `options` go to `from_pretrained`.

    Of a model that reads images too, the text model is returned. With device_map="meta" only names and shapes are read.

    Raises:
        UsageError: it is an encoder-decoder or quantised; a weight is missing, surplus, misshapen, or tied against the
            configuration; or a file of weights is missing or broken.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    _check_shards(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of keys is said here in one sentence
    try:
        config = config_in(folder)
        check_kind(config, folder)
        kind = AutoModelForCausalLM if text_config(config) is config else AutoModelForImageTextToText
        loaded: Any = kind.from_pretrained(
            folder,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **options,
        )
        model, info = loaded
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise _refusal(folder, f"cannot be loaded ({_first_line(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    misshapen = [name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]]
    for names, fault in (
        (info["missing_keys"], "lack"),
        (_surplus(folder, info["unexpected_keys"]), "hold, and the model of config.json has not,"),
        (misshapen, "have another shape than config.json says of"),
    ):
        if names:
            raise _refusal(folder, f"{fault} {_named(sorted(names))}{_about_ties(names, model)}")
    _check_ties(folder, model)
    return model if kind is AutoModelForCausalLM else _text_model(model)


def check_kind(config: Any, model: str | Path) -> None:
    """Raise UsageError for a kind of model that cannot be adapted and scored here."""
    if config.is_encoder_decoder:
        raise UsageError(
            f"{model} is an encoder-decoder ({config.model_type}), and rows are trained and scored as one sequence: "
            "give a decoder-only model"
        )
    text = text_config(config)
    # GPT-NeoX has the field, and reads forwards whatever it says.
    encodes = getattr(text, "is_decoder", True) is False and not text.model_type.startswith("gpt_neox")
    if encodes or getattr(text, "use_bidirectional_attention", None) is True:
        raise UsageError(
            f"{model} reads text in both directions ({text.model_type}), so its tokens have no likelihood: give a "
            "decoder, or set what config.json says of it if it was trained as one"
        )
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise UsageError(
            f"the weights of {model} are quantised ({method}), and layer scores need plain ones: give the model they "
            "were made from, or save what transformers' model.dequantize() returns"
        )


def _text_model(whole: Any) -> PreTrainedModel:
    """Return the causal language model that holds the decoder and the output layer of a model of several inputs."""
    import torch
    from transformers import AutoModelForCausalLM

    decoder = whole.get_decoder()
    with torch.device("meta"):
        text: Any = AutoModelForCausalLM.from_config(decoder.config, dtype=whole.dtype, trust_remote_code=False)
    setattr(text, text.base_model_prefix, decoder)
    text.set_output_embeddings(whole.get_output_embeddings())
    text.config = decoder.config
    return text


def _check_ties(folder: Path, model: PreTrainedModel) -> None:
    """Raise UsageError where config.json ties two weights that the folder holds with different values."""
    import torch

    stored = _stored(folder)
    for target, source in model.all_tied_weights_keys.items():
        one, other = _name_in(stored, target), _name_in(stored, source)
        if one and other and not torch.equal(_tensor(stored[one], one), _tensor(stored[other], other)):
            raise _refusal(
                folder,
                f"hold different values for {target} and {source}, and config.json ties the two: set "
                '"tie_word_embeddings": false there, or save the model again',
            )


def _name_in(stored: Collection[str], name: str) -> str | None:
    """Return the name under which a file holds a weight of the model. Older files have another prefix, or none."""
    if name in stored:
        return name
    end = ".".join(name.split(".")[-2:])
    found = [each for each in stored if f".{each}".endswith(f".{end}")]
    return found[0] if len(found) == 1 else None


def _surplus(folder: Path, names: Collection[str]) -> list[str]:
    """Return the names that are no causal mask. Older GPT-2 and GPT-J files hold the mask that a model now computes."""
    stored = _stored(folder) if names else {}
    return [name for name in names if name not in stored or not _is_causal_mask(name, _tensor(stored[name], name))]


def _is_causal_mask(name: str, tensor: Any) -> bool:
    """Tell whether an attention's stored constant is its triangle of ones, or the number that hides a score."""
    if name.endswith(".attn.masked_bias"):
        return tensor.numel() == 1
    return name.endswith(".attn.bias") and tensor.dim() == 4 and tensor.equal(tensor.new_ones(tensor.shape).tril())


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


def _stored(folder: Path) -> dict[str, Path]:
    """Return the name of each stored weight -> its file."""
    from safetensors import safe_open

    stored: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            stored |= dict.fromkeys(weights.keys(), file)
    return stored


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
