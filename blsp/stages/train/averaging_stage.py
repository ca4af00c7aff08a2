"""Stage `averaging`: the mean of adapters that were trained from one start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from blsp.environment import is_main_process
from blsp.errors import CheckpointError
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig
from blsp.stages.train.training_stage import MODEL

if TYPE_CHECKING:
    from blsp.modeling.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class AveragingConfig(StageConfig):
    """What the mean is taken of."""

    models: tuple[Path, ...]
    """BLSP checkpoints with adapters of one shape: of one training at several steps, or of trainings that one followed
    from the other; encoder and LLM are those of the first."""
    weights: tuple[float, ...] = ()
    """How much each counts; empty: all the same."""
    dtype: Literal["float32", "float16"] = "float32"
    """Numbers of the adapter that is saved."""

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ValueError(f"`models` must name at least two, but names {len(self.models)}.")
        if self.weights and (len(self.weights) != len(self.models) or min(self.weights) < 0 or not sum(self.weights)):
            raise ValueError(
                f"`weights` must be a number for each of {len(self.models)} models, but is {self.weights}."
            )


class AveragingStage(Stage[AveragingConfig]):
    """Adds up weights. Source: model soups, arXiv 2203.05482."""

    name: ClassVar[str] = "averaging"
    about: ClassVar[str] = "take the mean of adapters that were trained from one start: often better than each"
    needs: ClassVar[str] = "BLSP checkpoints with adapters of one shape"
    makes: ClassVar[str] = "model/: the adapter as a BLSP checkpoint"
    config_class: ClassVar[type[StageConfig]] = AveragingConfig

    def inputs(self, config: AveragingConfig) -> list[Path]:
        """The checkpoints."""
        return list(config.models)

    def outputs(self, config: AveragingConfig) -> list[Path]:
        """The checkpoint."""
        return [config.out / MODEL]

    def plan(self, config: AveragingConfig) -> Plan:
        """Which checkpoints are there."""
        missing = [str(path) for path in config.models if not path.is_dir()]
        return Plan({"models": len(config.models)}, 1.0, notes=[f"{path} is not there yet." for path in missing])

    def run(self, config: AveragingConfig, watcher: Watcher) -> dict[str, Any]:
        """Load, add up, save; one process does it.

        Raises:
            CheckpointError: The adapters differ in shape.
        """
        if not is_main_process():
            return {}
        import torch

        from blsp.models.checkpoint import load_adapter, read_metadata, save_adapter
        from blsp.models.spec import resolve, write_checkpoint_spec
        from blsp.training.product import Product

        watcher.message(f"Adding up {', '.join(map(str, config.models))}")
        first = config.models[0]
        weights = config.weights or (1.0,) * len(config.models)
        mean = mean_adapter([load_adapter(path) for path in config.models], weights)
        metadata = {**read_metadata(first), "mean_of": ["/".join(path.parts[-2:]) for path in config.models]}
        save_adapter(config.out / MODEL, mean, metadata=metadata, dtype=getattr(torch, config.dtype))
        product = Product(resolve(str(first)), config.out.absolute().parent)
        write_checkpoint_spec(config.out / MODEL, product.named_from(config.out / MODEL))
        return {"models": len(config.models)}


def mean_adapter(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The first adapter with the weighted mean of all adapters' weights.

    All read as many letters at a position as the one that reads most.

    Raises:
        CheckpointError: Their shapes differ.
    """
    import torch

    first = adapters[0]
    most = max(adapter.config.letters_per_position for adapter in adapters)
    for adapter in adapters:
        if adapter.config.letters and most % adapter.config.letters_per_position == 0:
            adapter.set_letters_per_position(most)
    for other in adapters[1:]:
        if other.config != first.config:
            raise CheckpointError(
                f"Adapters of a mean must have one shape, but have {first.config} and {other.config}."
            )
    states, total = [adapter.state_dict() for adapter in adapters], sum(weights)
    first.load_state_dict(
        {k: torch.stack([w / total * s[k].float() for w, s in zip(weights, states)]).sum(dim=0) for k in states[0]}
    )
    return first
