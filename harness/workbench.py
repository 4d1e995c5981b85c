"""What the cells of one process share: settings, data, and the base model, each loaded once and only if needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness import data, models, preflight, profiles
from harness.contracts import AdapterPlan, Batch, Cell, Row, RowSource
from harness.data import Example, MixData
from harness.errors import UsageError
from harness.files import digest
from harness.settings import Settings
from harness.sources import open_source
from harness.store import Store

if TYPE_CHECKING:
    from harness.floe.frozen_prefix import FrozenPrefix


class Workbench:
    """Loads lazily, so that finding out what is done needs no weights."""

    def __init__(self, settings: Settings, store: Store, progress: Callable[[str], None]):
        self.settings = settings
        self.store = store
        self.progress = progress
        self._mixes: dict[str, MixData] = {}
        self._text: list[tuple[list[Row], list[Row]]] = []
        self._trainable: dict[Any, dict[str, int]] = {}
        self._varied: dict[tuple[Any, ...], Workbench] = {}
        self._shared_model: dict[str, tuple[Any, Any, FrozenPrefix]] = {}
        self.items_digests: dict[str, str] = {}
        self.overlaps: dict[str, dict[str, Any]] = {}

    def of(self, cell: Cell) -> Workbench:
        """The workbench for a cell: this one, or one under the settings that the cell varies.

        They hold one base model between them: another one takes its place.
        """
        if not cell.varied:
            return self
        if cell.varied not in self._varied:
            varied = Workbench(profiles.vary(self.settings, dict(cell.varied)), self.store, self.progress)
            varied._shared_model = self._shared_model
            if data.split_settings(varied.settings) == data.split_settings(self.settings):
                varied.source, varied._mixes, varied._text = self.source, self._mixes, self._text
            self._varied[cell.varied] = varied
        return self._varied[cell.varied]

    # --- model ---

    @cached_property
    def model_ref(self) -> models.ModelRef:
        return models.locate(self.settings.model)

    @cached_property
    def n_layers(self) -> int:
        return models.architecture(self.settings.model).num_hidden_layers

    @property
    def _loaded(self) -> tuple[Any, Any, FrozenPrefix]:
        name = digest(self.settings.model.model_dump(mode="json"))
        if name not in self._shared_model:
            self._shared_model.clear()
            self._shared_model[name] = self._load()
        return self._shared_model[name]

    def _load(self) -> tuple[Any, Any, FrozenPrefix]:
        from harness.floe.frozen_prefix import FrozenPrefix

        self.progress(f"loading {self.settings.model.id}")
        model, tokenizer = models.load(self.settings.model)
        planned = {name: p.shape for name, p in self.meta_model.named_parameters()}
        loaded = {name: p.shape for name, p in model.named_parameters()}
        if planned != loaded:
            odd = sorted(planned.keys() ^ loaded.keys()) or [n for n in planned if planned[n] != loaded[n]]
            raise UsageError(
                f"the weights of {self.settings.model.id} do not have the shape of the profile's [model.config]: "
                f"{', '.join(odd[:3])} differ"
            )
        return model, tokenizer, FrozenPrefix()

    def forget_base(self) -> None:
        """Load the base model afresh when it is next needed: something may have been left on it."""
        self._shared_model.clear()

    @property
    def base(self) -> Any:
        """The base model. Whoever changes it changes it back."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        return self._loaded[1]

    @property
    def frozen_prefix(self) -> FrozenPrefix:
        """What the base model's lowest layers give for the batches of probes, as long as it is loaded."""
        return self._loaded[2]

    # --- shape ---

    @cached_property
    def meta_model(self) -> Any:
        """The base model's shape, without weights."""
        return models.on_meta(self.settings.model)

    @cached_property
    def base_parameters(self) -> int:
        return sum(p.numel() for p in self.meta_model.parameters())

    def trainable(self, plan: AdapterPlan) -> dict[str, int]:
        """`preflight.trainable_names` of the plan, worked out once per plan."""
        config = plan.peft_config
        key = plan.adapts, type(config), repr(sorted(vars(config).items(), key=str)) if config else ""
        if key not in self._trainable:
            self._trainable[key] = preflight.trainable_names(self.meta_model, plan)
        return self._trainable[key]

    # --- data ---

    @cached_property
    def source(self) -> RowSource:
        if self.settings.data.source == "teacher":
            from harness.teacher import TeacherSource

            return TeacherSource(self.settings)
        return open_source(self.settings.data)

    def mix(self, name: str) -> MixData:
        """A mix, split."""
        if name not in self._mixes:
            self._mixes[name] = data.split_mix(name, self.source, self.settings.data)
        return self._mixes[name]

    def has_read(self, mix: str) -> bool:
        """Whether the mix and the plain text are in memory."""
        return mix in self._mixes and bool(self._text)

    @property
    def text(self) -> tuple[list[Row], list[Row]]:
        """Plain text: passages for Taylor importance, and others held out."""
        if not self._text:
            self._text.append(data.split_text(self.source, self.settings.data))
        return self._text[0]

    @cached_property
    def text_digest(self) -> str:
        """Identifies the content of `text`."""
        return digest([[row.completion for row in side] for side in self.text])

    def encode(self, rows: Iterable[Row]) -> list[Example]:
        return data.encode(rows, self.tokenizer, self.settings.model.prompt_format, self.settings.data.max_length)

    def batches(self, rows: Iterable[Row]) -> list[Batch]:
        """Right-padded batches for scoring, at the training's micro-batch size."""
        return data.batches(self.encode(rows), self.settings.train.micro_batch_size, self.tokenizer.pad_token_id)
