"""The base model and its tokenizer: from the hub, a local folder, a package with GGUF weights, or random.

Heavy libraries load inside the functions, because planning needs only the architecture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.files import digest, remembered_digest
from floe_bench.harness.hub import snapshot
from floe_bench.harness.model.checkpoint import check_finite, check_kind, load_checked
from floe_bench.harness.model.packaged import dequantised, gguf_file
from floe_bench.harness.model.shape import config_in, shape_of, text_config
from floe_bench.harness.spec.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WEIGHT_FILES = ("*.safetensors", "*.json", "*.model", "*.jinja")
TOKENIZER_FILES = ("tokenizer.json",)


@dataclass(frozen=True)
class ModelRef:
    """The place of a base model that was found, and an identity of its content."""

    folder: Path | None
    revision: str

    @property
    def identity(self) -> str:
        return self.revision


def locate(settings: ModelSettings) -> ModelRef:
    """Find the weights and their identity without loading them. The revision is the hub's commit or a digest of files.

    Raises:
        UsageError: there are no weights.
    """
    if settings.path is not None:
        return _in_folder(Path(settings.path))
    if settings.source == "random":
        return ModelRef(None, f"random:{digest([settings.config, settings.seed])}")
    if settings.source == "packaged":
        return ModelRef(None, f"gguf:{remembered_digest(gguf_file(settings.package))}")
    return _from_hub(settings)


def load_model(settings: ModelSettings) -> PreTrainedModel:
    """Load the model, in evaluation mode, on the accelerator where there is one.

    Raises:
        UsageError: the weights are not those of the configuration (`model.checkpoint`), or not finite.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if _is_random(settings):
        return _random_model(settings).to(device).eval()  # pyright: ignore[reportArgumentType]
    folder = _folder(settings)
    model = load_checked(folder, dtype=getattr(torch, settings.dtype)).to(device).eval()  # pyright: ignore[reportArgumentType]
    check_finite(folder, model)
    return model


def check_weights(settings: ModelSettings) -> None:
    """Hold names and shapes of the weights against the configuration, without loading them. Raises UsageError."""
    if not _is_random(settings):
        planned = on_meta(settings)  # says what is wrong with the configuration, before weights are held against it
        _check_planned(settings, planned, load_checked(_folder(settings), device_map="meta"))


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Load the tokenizer. It pads with EOS where it has no padding token.

    Raises:
        UsageError: it cannot be loaded, has no EOS, or has tokens that the model's embedding has no row for.
    """
    from transformers import AutoTokenizer

    if _is_random(settings):
        return byte_tokenizer()
    folder = _folder(settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare exceptions for files that it cannot read
        raise UsageError(f"the tokenizer in {folder} cannot be loaded ({_first_line(error)})") from error
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer in {folder} has no EOS token, so a reply could not end: name one as eos_token in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = shape_of(architecture(settings)).vocabulary
    ids = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if ids:
        token = max(ids, key=lambda name: ids[name])
        raise UsageError(
            f"the tokenizer in {folder} has the token {token!r} with id {ids[token]}, and the model's embedding has "
            f"{rows} rows: they do not belong together"
        )
    return tokenizer


def _folder(settings: ModelSettings) -> Path:
    """Return a folder with the weights of a model that is not random."""
    return locate(settings).folder or dequantised(settings.package)


def _is_random(settings: ModelSettings) -> bool:
    return settings.source == "random" and settings.path is None


def _check_planned(settings: ModelSettings, planned: PreTrainedModel, loaded: PreTrainedModel) -> None:
    """Raise UsageError where the weights are not of the shape that the settings plan with."""
    wanted = {name: p.shape for name, p in planned.named_parameters(remove_duplicate=False)}
    found = {name: p.shape for name, p in loaded.named_parameters(remove_duplicate=False)}
    odd = sorted(wanted.keys() ^ found.keys()) or [name for name in wanted if wanted[name] != found[name]]
    if odd:
        raise UsageError(
            f"the weights of {settings.path or settings.id} do not have the shape of the profile's [model.config]: "
            f"{', '.join(odd[:3])} differ"
        )


class BaseModel:
    """The base model and its tokenizer, each loaded at first use. Code that changes the model must undo the change."""

    def __init__(self, settings: ModelSettings, progress: Callable[[str], None]):
        self.settings = settings
        self._progress = progress
        self._loaded: Any = None

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.settings)

    def forget(self) -> None:
        """Load the model afresh at its next use, because something may have been left on it."""
        self._loaded = None

    @property
    def model(self) -> Any:
        """Load the model at the first call. Raises UsageError where the weights do not have the settings' shape."""
        if self._loaded is None:
            self._progress(f"loading {self.settings.path or self.settings.id}")
            model = load_model(self.settings)
            _check_planned(self.settings, on_meta(self.settings), model)
            self._loaded = model
        return self._loaded


def architecture(settings: ModelSettings) -> PretrainedConfig:
    """Return the text model's configuration without network: from `--model-path` where given, else from the profile.

    Raises:
        UsageError: the configuration describes no model that transformers knows, an encoder-decoder, or quantised
            weights.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    values = dict(settings.config)
    kind = values.get("model_type")
    if settings.path is None and kind not in CONFIG_MAPPING:
        raise unknown("model.config.model_type", str(kind), CONFIG_MAPPING.keys())
    try:
        if settings.path is not None:
            _in_folder(Path(settings.path))
            whole = config_in(Path(settings.path))
        else:
            whole = AutoConfig.for_model(values.pop("model_type"), **values)
        config = text_config(whole)
    except (KeyError, ValueError, TypeError, AttributeError, OSError, StrictDataclassError) as error:
        where = f"--model-path {settings.path}: config.json" if settings.path else "the profile's [model.config]"
        raise UsageError(f"{where} describes no model that transformers knows ({_first_line(error)})") from error
    check_kind(whole, settings.path or settings.id)
    return config


def on_meta(settings: ModelSettings) -> PreTrainedModel:
    """Build the model on the meta device. It has shapes to count parameters but allocates no weights."""
    import torch
    from transformers import AutoModelForCausalLM

    config = architecture(settings)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, settings.dtype), trust_remote_code=False
            )
    except ValueError as error:
        raise UsageError(f"a {config.model_type} is no causal language model ({_first_line(error)})") from error


def check_layers(model: PreTrainedModel) -> None:
    """Raise UsageError where the model's decoder layers cannot be told, or pass on more than their hidden states."""
    from floe_bench.harness.floe.decoder import decoder_layers

    try:
        decoder_layers(model)
    except ValueError as error:
        raise UsageError(f"layers cannot be selected: {error}") from error
    if getattr(model.config, "num_kv_shared_layers", 0):
        raise UsageError(
            f"layers cannot be selected: those of a {model.config.model_type} share keys and values, so that a layer's "
            "importance is not its own"
        )


def check_window(config: PretrainedConfig, max_length: int) -> None:
    """Raise UsageError where rows may be longer than what the model reads."""
    longest = shape_of(config).max_length
    if longest is not None and max_length > longest:
        raise UsageError(
            f"data.max_length is {max_length}, and a {config.model_type} of this configuration reads {longest} tokens: "
            f"--set data.max_length={longest}"
        )


def _in_folder(folder: Path) -> ModelRef:
    """Return the model in a local folder. Raises UsageError where it lacks weights, config or tokenizer."""
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        found = "only an adapter there: merge it into its base model first" if adapter else "no config.json there"
        raise UsageError(f"--model-path {folder}: {found}; give the folder of a saved model")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        found = "only weights as pickle, which can run code when read" if pickled else "no *.safetensors there"
        raise UsageError(
            f"--model-path {folder}: {found}; save the model again by transformers' save_pretrained, which writes "
            "safetensors"
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(
            f"--model-path {folder}: no tokenizer.json there; make one of a tokenizer.model by "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…), with sentencepiece installed"
        )
    files = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern)})
    content = {file.name: remembered_digest(file) for file in files}
    return ModelRef(folder, f"folder:{digest(content)}")


def _from_hub(settings: ModelSettings) -> ModelRef:
    """Download the model from the hub, or find it in the hub's cache. Raises UsageError where neither works."""
    folder = snapshot("model", settings.id, settings.revision, WEIGHT_FILES, _holds_model)
    if not _holds_model(folder):
        raise UsageError(
            f"model {settings.id} of the hub lacks config.json, a tokenizer or *.safetensors: give another model.id, "
            "or a local copy with --model-path"
        )
    return ModelRef(folder, folder.name)


def _holds_model(folder: Path) -> bool:
    """Tell whether a configuration, a tokenizer and all shards of the weights lie in the folder."""
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_bytes())["weight_map"].values() if index.is_file() else ["model.safetensors"]
    tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return tokenizer and all((folder / name).is_file() for name in {"config.json", *shards})


def _random_model(settings: ModelSettings) -> PreTrainedModel:
    """Return a model with random weights that depend on the settings' seed alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return AutoModelForCausalLM.from_config(architecture(settings), dtype=getattr(torch, settings.dtype))


@cache
def byte_tokenizer() -> Any:
    """Return a tokenizer of one token per byte, then <s> (256), </s> (257) and <pad> (258). It needs no files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
