"""How many parameters a configured model has, found out without its weights and without network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from blsp.models.model_config import ModelConfig
from blsp.stages.planning.known_models import KNOWN_ENCODERS, KNOWN_LLMS, EncoderSize, LlmSize

if TYPE_CHECKING:
    from torch import nn

    from blsp.models.spec import ModelSpec


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model's parts; None for what is not known."""

    encoder: EncoderSize | None
    llm: LlmSize | None
    adapter: int | None
    notes: Sequence[str] = ()
    """What was assumed, a sentence each."""

    @property
    def parameters(self) -> int | None:
        """Parameters in all; the encoder counts without its decoder, which is never read."""
        if self.encoder is None or self.llm is None or self.adapter is None:
            return None
        return self.encoder.parameters + self.llm.parameters + self.adapter

    def lora(self, rank: int, modules: Sequence[str]) -> int | None:
        """Parameters of low-rank changes to the LLM's attention; None where other layers are named."""
        if self.llm is None:
            return None
        outer = {"q_proj": self.llm.query_width, "o_proj": self.llm.query_width}
        outer |= {"k_proj": self.llm.key_width, "v_proj": self.llm.key_width}
        if not set(modules) <= set(outer):
            return None
        return self.llm.layers * rank * sum(self.llm.width + outer[name] for name in modules)


def model_size(config: ModelConfig) -> ModelSize:
    """Sizes of a model's parts, from the configurations on this machine or from what is published."""
    from blsp.models.spec import local_parts

    notes: list[str] = []
    spec = _spec(config, notes)
    if spec is None:
        return ModelSize(None, None, None, notes)
    paths = local_parts(spec)
    encoder = _encoder_size(spec.encoder, paths.encoder)
    llm = _llm_size(spec.llm, paths.llm)
    if llm is None and (stand_in := _stand_in(config)) is not None:
        llm = KNOWN_LLMS[stand_in]
        notes.append(f"{spec.llm} is not there yet: taken to be as large as {stand_in}.")
    notes += [
        f"The size of {name} is not known." for name, size in ((spec.encoder, encoder), (spec.llm, llm)) if size is None
    ]
    if encoder is None or llm is None:
        return ModelSize(encoder, llm, None, notes)
    folder = None if config.adapter == "new" else paths.adapter
    return ModelSize(encoder, llm, _adapter_parameters(config, folder, encoder.width, llm.width), notes)


def _spec(config: ModelConfig, notes: list[str]) -> ModelSpec | None:
    """What the model is put together from; where its checkpoint is still to be made, what the config says besides."""
    from blsp.models.sources.hub import cached_snapshot, is_folder
    from blsp.models.spec import CHECKPOINT_NAME, PRESETS

    if config.name in PRESETS or is_folder(config.name) or cached_snapshot(config.name, needs=CHECKPOINT_NAME):
        return config.spec()
    notes.append(f"{config.name} is not there yet, so the size of what it names is not known.")
    if config.encoder is None or config.llm is None:
        return None
    return replace(config, name="tiny").spec()


def _stand_in(config: ModelConfig) -> str | None:
    """The LLM that the preset names, of which an LLM that is still to be trained is most likely made."""
    from blsp.models.spec import PRESETS

    if config.name not in PRESETS:
        return None
    name = _hub_id(PRESETS[config.name].llm, "llm")
    return name if name in KNOWN_LLMS else None


def _hub_id(name: str, kind: Literal["encoder", "llm"]) -> str:
    """What a part is called on the hub, whatever it is called here."""
    from blsp.models.embedded import EMBEDDED_ENCODERS, EMBEDDED_LLMS

    part = (EMBEDDED_ENCODERS if kind == "encoder" else EMBEDDED_LLMS).get(name)
    return name if part is None else part.hub_id


def _encoder_size(name: str, folder: Path | None) -> EncoderSize | None:
    if folder is None:
        return KNOWN_ENCODERS.get(_hub_id(name, "encoder"))
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig.from_pretrained(folder, local_files_only=True)
    return EncoderSize(count_parameters(WhisperEncoder, config), int(config.d_model), int(config.encoder_layers))


def _llm_size(name: str, folder: Path | None) -> LlmSize | None:
    if folder is None:
        return KNOWN_LLMS.get(_hub_id(name, "llm"))
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config(decoder=True)
    heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    return LlmSize(
        count_parameters(AutoModelForCausalLM.from_config, config),
        width=int(text.hidden_size),
        layers=int(text.num_hidden_layers),
        vocabulary=int(text.vocab_size),
        query_width=heads * head_dim,
        key_width=int(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
    )


def _adapter_parameters(config: ModelConfig, folder: Path | None, encoder_dim: int, llm_dim: int) -> int:
    """Of the adapter in a folder; where there is none yet, of one of the configured shape."""
    from blsp.modeling.adapter import Adapter
    from blsp.models.checkpoint import read_adapter_config

    known = None if folder is None else read_adapter_config(folder)
    shape = known or config.adapter_shape(encoder_dim, llm_dim)
    return count_parameters(Adapter, replace(shape, readout=config.readout or shape.readout))


def residual_parameters(llm_dim: int) -> int:
    """Of what `ctc_residual` adds to words, in an adapter for an LLM of this width."""
    from blsp.modeling.word_residual import WordResidual

    return count_parameters(WordResidual, llm_dim)


def count_parameters(make: Any, config: Any) -> int:
    """Parameters of the module that `make(config)` gives, made without memory for them; shared ones count once."""
    import torch

    with torch.device("meta"):
        module: nn.Module = make(config)
    if callable(tie := getattr(module, "tie_weights", None)):
        tie()
    return sum(parameter.numel() for parameter in module.parameters())
