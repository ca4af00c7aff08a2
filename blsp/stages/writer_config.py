"""Who writes questions and judges answers: a service, or the LLM of a model on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blsp.evaluation.chat_endpoint import ChatEndpoint, EndpointConfig
from blsp.models.model_config import ModelConfig

if TYPE_CHECKING:
    from blsp.evaluation.question_answering import TextWriter


@dataclass(frozen=True)
class WriterConfig:
    """Who writes: one of the two."""

    ALTERNATIVES: ClassVar = ("endpoint", "model")

    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible service: ChatGPT, as in the paper, vLLM, llama.cpp ..."""
    model: ModelConfig | None = None
    """A model on this machine, whose LLM writes."""
    max_new_tokens: int = 128
    """Longest text of a local model, in tokens."""
    batch_size: int = 8
    """Prompts that a local model answers together."""

    def __post_init__(self) -> None:
        if (self.endpoint is None) == (self.model is None):
            raise ValueError("`endpoint` or `model` must be given, one of the two.")

    @property
    def title(self) -> str:
        """Who it is, for a report."""
        return self.endpoint.model if self.endpoint is not None else self.model.name if self.model is not None else ""

    def open(self) -> TextWriter:
        """The writer, loaded.

        Raises:
            ConfigError: The variable that should hold the key of a service does not.
            BlspError: A model's weights are missing.
        """
        from blsp.evaluation.question_answering import local_writer
        from blsp.evaluation.systems import shared_system

        if self.endpoint is not None:
            return ChatEndpoint(self.endpoint)
        assert self.model is not None
        model = shared_system(self.model, "transcript").model
        return local_writer(model, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
