"""What a configuration says of a decoder's shape. transformers names the fields; nothing else here knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Hold a decoder's shape. max_length: tokens of its longest sequence; None where it has no limit."""

    n_layers: int
    hidden_size: int
    vocabulary: int
    max_length: int | None


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
