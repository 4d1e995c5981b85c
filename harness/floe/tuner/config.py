"""The configuration of MoE-LoRA, with PEFT's parameter names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig

PEFT_TYPE = "MOE_LORA"


@dataclass
class MoeLoraConfig(PeftConfig):
    """Settings of a MoE-LoRA adapter. The defaults are those of HydraLoRA's script (arXiv 2404.19245).

    Args:
        r: rank of the shared A and of every expert B_i, >= 1.
        lora_alpha: scale α > 0; the update is multiplied by α / r.
        num_experts: number of experts M >= 1.
        lora_dropout: dropout probability on the input of A, in [0, 1). There is one dropout mask per module.
            The router reads the input without dropout.
        target_modules: module names (the ends of their paths) or one regular expression over whole paths.
            None takes the feed-forward projections of the base model's type.
        exclude_modules: names, or one regular expression, of modules that are never adapted.
        layers_to_transform: 0-based numbers of the decoder layers to adapt; None means all of them.
        layers_pattern: name of the `nn.ModuleList` that holds the layers, if not the first in a path.
        rank_pattern: module-name pattern -> r for the modules it matches.
        alpha_pattern: module-name pattern -> lora_alpha.
        experts_pattern: module-name pattern -> num_experts.
        init_weights: True starts every B_i at 0, so that a fresh adapter changes nothing. False starts them at
            random.

    Raises:
        ValueError: a setting is out of its range, or `layers_to_transform` / `layers_pattern` are combined
            with settings under which PEFT would ignore them.
    """

    r: int = 4
    lora_alpha: float = 32
    num_experts: int = 4
    lora_dropout: float = 0.05
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    experts_pattern: dict[str, int] = field(default_factory=dict)
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        # PEFT's closed enumeration has no member for MoE-LoRA. PEFT uses the value only as a key.
        self.peft_type = PEFT_TYPE  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        self._check_sizes()
        self._check_layers()

    def _check_sizes(self) -> None:
        _check_count("r", self.r)
        _check_count("num_experts", self.num_experts)
        _check_positive("lora_alpha", self.lora_alpha)
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), got {self.lora_dropout!r}.")
        for pattern, value in self.rank_pattern.items():
            _check_count(f"rank_pattern[{pattern!r}]", value)
        for pattern, value in self.experts_pattern.items():
            _check_count(f"experts_pattern[{pattern!r}]", value)
        for pattern, value in self.alpha_pattern.items():
            _check_positive(f"alpha_pattern[{pattern!r}]", value)

    def _check_layers(self) -> None:
        if self.layers_to_transform is None:
            if self.layers_pattern:
                raise ValueError("layers_pattern needs layers_to_transform, got None.")
            return
        if isinstance(self.target_modules, str):
            raise ValueError(
                "layers_to_transform needs target_modules as a list of names: PEFT ignores it for a regular "
                f"expression, got {self.target_modules!r}."
            )
        layers = self.layers_to_transform
        if not isinstance(layers, int):
            layers = self.layers_to_transform = list(layers)
            if not layers:
                raise ValueError("layers_to_transform must name a layer: PEFT adapts every layer for [].")
        negative = [layer for layer in ([layers] if isinstance(layers, int) else layers) if layer < 0]
        if negative:
            raise ValueError(f"layers_to_transform holds 0-based layer numbers, got {negative}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary, with sets as sorted lists: equal configurations save equal files."""
        return {name: sorted(value) if isinstance(value, set) else value for name, value in super().to_dict().items()}


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0, got {value!r}.")
