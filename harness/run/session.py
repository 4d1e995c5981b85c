"""Share between the cells of a process: settings, data, items and the base model, each loaded once, when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Batch
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.record import Overlap
from floe_bench.harness.contracts.rows import Row, RowSource
from floe_bench.harness.data import mixes, tokens
from floe_bench.harness.data.mixes import MixData
from floe_bench.harness.data.sources import open_source
from floe_bench.harness.data.tokens import Example, RowEncoder
from floe_bench.harness.files import digest
from floe_bench.harness.model import base as base_model
from floe_bench.harness.model import parameters
from floe_bench.harness.model.shape import shape_of
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import ModelSettings, Settings
from floe_bench.harness.store.folder import Store


class Session:
    """Load each thing when it is first needed, so that finding out what is done needs no weights."""

    def __init__(self, settings: Settings, store: Store, progress: Callable[[str], None] = lambda text: None):
        self.settings = settings
        self.store = store
        self.progress = progress
        self._mixes: dict[str, MixData] = {}
        self._text: list[tuple[list[Row], list[Row]]] = []
        self._trainable: dict[Any, dict[str, int]] = {}
        self._varied: dict[tuple[Any, ...], Session] = {}
        self._base_models: dict[str, base_model.BaseModel] = {}
        self._checked: list[ModelSettings] = []
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.overlaps: dict[str, Overlap] = {}

    def of(self, cell: Cell) -> Session:
        """Return the cell's session: this one, or one under the settings that the cell varies.

        All of them hold one base model between them. Loading another lets it go.
        """
        if not cell.varied:
            return self
        if cell.varied not in self._varied:
            varied = Session(profiles.vary(self.settings, dict(cell.varied)), self.store, self.progress)
            varied._base_models = self._base_models
            if mixes.split_settings(varied.settings) == mixes.split_settings(self.settings):
                varied.source, varied._mixes, varied._text = self.source, self._mixes, self._text
            self._varied[cell.varied] = varied
        return self._varied[cell.varied]

    # --- model ---

    @cached_property
    def model_ref(self) -> base_model.ModelRef:
        return base_model.locate(self.settings.model)

    @cached_property
    def n_layers(self) -> int:
        return shape_of(base_model.architecture(self.settings.model)).n_layers

    @property
    def base_model(self) -> base_model.BaseModel:
        """Return the base model of these settings. Another one is let go first."""
        name = digest(self.settings.model.model_dump(mode="json"))
        if name not in self._base_models:
            self._base_models.clear()
            self._base_models[name] = base_model.BaseModel(self.settings.model, self.progress)
        return self._base_models[name]

    @property
    def base(self) -> Any:
        """Return the base model. Whoever changes it must change it back."""
        return self.base_model.model

    @property
    def tokenizer(self) -> Any:
        return self.base_model.tokenizer

    # --- shape ---

    @cached_property
    def meta_model(self) -> Any:
        """Return the base model's shape, without weights."""
        return base_model.on_meta(self.settings.model)

    @cached_property
    def base_parameters(self) -> int:
        return sum(p.numel() for p in self.meta_model.parameters())

    def trainable(self, plan: AdapterPlan) -> dict[str, int]:
        """`parameters.trainable_names` of the plan, worked out once per plan."""
        config = plan.peft_config
        key = plan.adapts, type(config), repr(sorted(vars(config).items(), key=str)) if config else ""
        if key not in self._trainable:
            self._trainable[key] = parameters.trainable_names(self.meta_model, plan)
        return self._trainable[key]

    # --- data ---

    @cached_property
    def source(self) -> RowSource:
        if self.settings.data.source == "teacher":
            from floe_bench.harness.data.planted_teacher import TeacherSource

            return TeacherSource(self.settings, base_model.load_model, base_model.byte_tokenizer)
        return open_source(self.settings.data)

    def mix(self, name: str) -> MixData:
        """Return a mix, read and split once."""
        if name not in self._mixes:
            self._mixes[name] = mixes.split_mix(name, self.source, self.settings.data)
        return self._mixes[name]

    def has_read(self, mix: str) -> bool:
        """Tell whether the mix and the plain text are in memory."""
        return mix in self._mixes and bool(self._text)

    @property
    def text(self) -> tuple[list[Row], list[Row]]:
        """Return plain text: passages for Taylor importance, and others that are held out."""
        if not self._text:
            self._text.append(mixes.split_text(self.source, self.settings.data))
        return self._text[0]

    @cached_property
    def text_digest(self) -> str:
        """Return the digest of `text`."""
        return digest([[row.completion for row in side] for side in self.text])

    def check_model(self) -> None:
        """Raise UsageError where weights, layers, tokenizer, template and window do not fit. Loads no weights."""
        model = self.settings.model
        if model not in self._checked:
            base_model.check_weights(model)
            base_model.check_layers(self.meta_model)
            base_model.check_window(self.meta_model.config, self.settings.data.max_length)
            self._checked.append(model)
        _ = self.row_encoder

    @cached_property
    def row_encoder(self) -> RowEncoder:
        """Return what tokenises rows. Raises UsageError where tokenizer and settings do not fit."""
        settings = self.settings
        return RowEncoder(self.tokenizer, settings.model.prompt_format, settings.data.max_length)

    def encode(self, rows: Iterable[Row]) -> list[Example]:
        return self.row_encoder.encode(rows)

    def batches(self, rows: Iterable[Row]) -> list[Batch]:
        """Make right-padded batches for scoring, at the training's micro-batch size."""
        return tokens.batches(self.encode(rows), self.settings.train.micro_batch_size, self.tokenizer.pad_token_id)
