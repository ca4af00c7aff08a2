"""Which model a stage uses or trains, as its config says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blsp.errors import ConfigError
from blsp.models.model_choice import ModelChoice
from blsp.user_paths import expand_user

if TYPE_CHECKING:
    from blsp.modeling.adapter import Adapter, AdapterConfig
    from blsp.modeling.model import BlspModel
    from blsp.models.spec import ModelSpec


@dataclass(frozen=True)
class ModelConfig(ModelChoice):
    """A model as a stage uses or trains it."""

    name: str = "tiny"
    """Preset, folder, or hub id of a BLSP checkpoint."""
    adapter: str | None = None
    """Folder or hub id of an adapter to start from; `new` for a random one of the shape below."""
    template: Literal["paper", "chat"] | None = None
    """Prompt format: as in the paper, or by the LLM's own chat template; by default that of `name`."""
    padded: bool | None = None
    """Whether the encoder sees 30 s whatever the speech; by default as `name` does."""
    kernel_sizes: tuple[int, ...] = (5, 5, 5)
    """Convolutions of a new adapter, each with stride 2."""
    bottleneck_dim: int = 512
    """Inner width of a new adapter's bottleneck."""
    width: int | None = None
    """Own width of a new adapter; by default that of the LLM."""
    readout: Literal["frames", "ctc_frames", "ctc_expected", "ctc_words", "ctc_residual"] | None = None
    """What the LLM reads: every frame (the paper), or what the adapter's CTC head reads; by default as the adapter was
    trained, and every frame of a new one."""
    blocks: tuple[int, ...] = ()
    """Transformer blocks of a new adapter after each convolution; empty: none, as in the paper."""
    letters: bool = False
    """Whether a new adapter reads letters after its first convolution and tells the later layers."""
    letters_per_position: int | None = None
    """How many letters the adapter reads every 40 ms; one that was trained with fewer begins with these, repeated. By
    default as many as it was trained with, and one of a new adapter."""

    @property
    def is_new_without_head(self) -> bool:
        """Whether the adapter is a new one of which every frame is read: it has no CTC head."""
        return self.adapter == "new" and self.readout in (None, "frames")

    def spec(self) -> ModelSpec:
        """What the model is put together from; reads a checkpoint's `blsp.json`, loads no weights.

        Raises:
            ModelNotFoundError: There is no model of this name.
        """
        from dataclasses import replace

        from blsp.models.spec import resolve

        adapter = None if self.adapter == "new" else self.adapter
        spec = resolve(self.name, encoder=self.encoder, llm=self.llm, adapter=adapter)
        return replace(
            spec,
            adapter=None if self.adapter == "new" else spec.adapter,
            template=self.template or spec.template,
            padded=spec.padded if self.padded is None else self.padded,
        )

    def load(self, *, speech: bool = True, seed: int = 0, packed: bool = False) -> BlspModel:
        """The model on its device; with `adapter: new` its adapter is random, by the seed.

        Args:
            speech: Load encoder and adapter too; without them the model takes text only.
            seed: Start of the random numbers of a new adapter.
            packed: Let a CPU run the LLM by its packed weights, as `blsp.models.load.load_model`.

        Raises:
            ConfigError: `readout` needs a CTC head, or `letters_per_position` an adapter that reads letters, and the
                adapter has none.
        """
        from blsp.models.load import load_model

        where: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "quantize": self.quantize}
        if not speech or self.adapter != "new":
            model = load_model(self.spec(), device=self.device, dtype=self.dtype, speech=speech, packed=packed)
            if model.adapter is not None:
                self._read_as_told(model.adapter)
            return model
        return load_model(
            self.spec(),
            **where,
            new_adapter=lambda encoder_dim, llm_dim: self.new_adapter(encoder_dim, llm_dim, seed),
        )

    def _read_as_told(self, adapter: Adapter) -> None:
        try:
            if self.readout is not None:
                adapter.set_readout(self.readout)
        except ValueError as error:
            raise ConfigError(
                f"`model.readout` is {self.readout}, but the adapter of {self.name} has no CTC head.",
                hint="Leave it out, or start from a new one: model.adapter=new",
            ) from error
        try:
            if self.letters_per_position is not None:
                adapter.set_letters_per_position(self.letters_per_position)
        except ValueError as error:
            raise ConfigError(
                f"`model.letters_per_position` is {self.letters_per_position}, which the adapter of {self.name} cannot "
                f"become: it reads {adapter.config.letters_per_position if adapter.config.letters else 'no letters'}.",
                hint="Leave it out, or start from a new one: model.adapter=new model.letters=true",
            ) from error

    def new_adapter(self, encoder_dim: int, llm_dim: int, seed: int) -> Adapter:
        """A random adapter of the configured shape, float32."""
        import torch

        from blsp.modeling.adapter import Adapter

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Adapter(self.adapter_shape(encoder_dim, llm_dim))

    def adapter_shape(self, encoder_dim: int, llm_dim: int) -> AdapterConfig:
        """Shape of a new adapter between an encoder and an LLM of these widths."""
        from blsp.modeling.adapter import AdapterConfig

        return AdapterConfig(
            encoder_dim,
            llm_dim,
            kernel_sizes=tuple(self.kernel_sizes),
            bottleneck_dim=self.bottleneck_dim,
            width=self.width,
            readout=self.readout or "frames",
            blocks=tuple(self.blocks),
            letters=self.letters,
            letters_per_position=self.letters_per_position or 1,
        )


def model_inputs(config: ModelConfig, *, speech: bool = False) -> list[Path]:
    """Folders of this machine that a model's config names, there or still to be made.

    Args:
        config: The model.
        speech: Whether its adapter is used: then that of this package is one of them, where it is the model's.
    """
    from blsp.models.sources.hub import is_folder, is_hub_id
    from blsp.models.spec import EMBEDDED_ADAPTERS, PRESETS

    names = (config.name, config.encoder, config.llm, config.adapter)
    known = {None, "new", *EMBEDDED_ADAPTERS, *PRESETS}
    found = [expand_user(n) for n in names if n not in known and n and (is_folder(n) or not is_hub_id(n))]
    adapter = EMBEDDED_ADAPTERS.get(config.adapter or config.name) if speech else None
    return found if adapter is None else [*found, adapter]
