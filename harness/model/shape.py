"""What a configuration says of a decoder's shape. transformers names the fields; nothing else here knows them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Hold a decoder's shape. max_length: tokens of its longest sequence; None where it has no limit."""

    n_layers: int
    hidden_size: int
    vocabulary: int
    max_length: int | None


def config_in(folder: Path) -> Any:
    """Return the configuration in a folder. Executes none of its code.

    Where it does not say whether a model of several inputs ties its embeddings, its text model's family says it: the
    class around it ties them, as Mistral 3's does, whether Mistral's text model does or not.
    """
    from transformers import AutoConfig, PretrainedConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    said, _ = PretrainedConfig.get_config_dict(folder)
    if "tie_word_embeddings" not in said:
        config.tie_word_embeddings = config.get_text_config(decoder=True).tie_word_embeddings
    return config


def text_config(config: Any) -> Any:
    """Return the configuration of the text model: part of it where the model reads images too, else itself."""
    text = config.get_text_config(decoder=True)
    if text is not config and not config.is_encoder_decoder:
        text.tie_word_embeddings = config.tie_word_embeddings
    return text


def shape_of(config: Any) -> Shape:
    """Return the shape of a configuration's text model, which may be nested in that of several kinds of input.

    Raises:
        ValueError: it names no number of layers, width or vocabulary.
    """
    text = text_config(config)
    try:
        return Shape(
            n_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            vocabulary=text.vocab_size,
            max_length=getattr(text, "max_position_embeddings", None) or None,
        )
    except AttributeError as error:
        raise ValueError(f"the configuration of {config.model_type} has no {error.name}") from None
