"""What an adapter is trained to do, as a config says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of what the loss is a sum of. All are sums over a step, divided by its number of answer tokens."""

    cross_entropy: float = 1.0
    """Of the answers' tokens: the paper's only objective."""
    distillation: float = 0.0
    """Of the distance (KL) of the LLM's next-token distributions from those that it has when it reads the
    transcript instead of hearing the speech."""
    temperature: float = 1.0
    """Softens both distributions of the distillation where it is above 1."""
    ctc: float = 0.0
    """Of reading the transcript with the adapter's CTC head; needs an adapter that has one."""
    embedding: float = 0.0
    """Of the distance between what is handed over for the words found and the embeddings of the transcript's tokens in
    their places: a warm start of `ctc_residual` that needs no pass of the LLM where it stands alone."""

    @property
    def asks_llm(self) -> bool:
        """Whether the LLM answers at all."""
        return self.cross_entropy + self.distillation > 0

    @property
    def needs_transcripts(self) -> bool:
        """Whether it compares speech with its transcript's tokens."""
        return self.ctc + self.embedding > 0

    def __post_init__(self) -> None:
        for name in ("cross_entropy", "distillation", "ctc", "embedding"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, but is {getattr(self, name)} instead.")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` must be above 0, but is {self.temperature} instead.")
        if not self.asks_llm and self.embedding == 0:
            raise ValueError("`cross_entropy`, `distillation` or `embedding` must be above 0, but all are 0.")
