"""Stage `representations`: what a system's LLM makes of speech and of its transcript before it answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from blsp.data.answers.behaviours import spread
from blsp.data.manifest import Manifest, Utterance, load_waveform
from blsp.environment import is_main_process
from blsp.errors import DataError
from blsp.evaluation.tasks import BY_ADAPTER, Hearing
from blsp.instructions import CONTRASTED
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig

if TYPE_CHECKING:
    import numpy as np

    from blsp.evaluation.systems import System

READINGS_NAME, FACTS_NAME = "readings.safetensors", "readings.json"
PICTURE_SECONDS = (2.0, 4.5)
"""Length of an utterance that fits a picture."""


@dataclass(frozen=True, kw_only=True)
class RepresentationsConfig(StageConfig):
    """Whose representations of what."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model, usually a checkpoint: `name: RUN/model`."""
    hears: Hearing = "speech"
    """What its LLM gets: speech; transcript, the true one; whisper or ctc, what these have written down of it."""
    manifest: Path
    """Speech with transcripts."""
    max_utterances: int | None = 48
    """Utterances taken, evenly spread over the manifest."""
    instructions: dict[str, str] = field(default_factory=lambda: dict(CONTRASTED))
    """Instructions by short name; by default the paper's four of table 6."""
    language: str = "en"
    """Language spoken, which Whisper is told."""
    batch_size: int = 8
    """Prompts read together."""

    def __post_init__(self) -> None:
        if self.max_utterances is not None and self.max_utterances < 2:
            raise ValueError(f"`max_utterances` must be at least 2, but is {self.max_utterances}.")
        if not self.instructions:
            raise ValueError("`instructions` must not be empty.")


class RepresentationsStage(Stage[RepresentationsConfig]):
    """Reads each utterance and its transcript under each instruction, and stops where the answer would begin."""

    name: ClassVar[str] = "representations"
    about: ClassVar[str] = "What an LLM makes of speech and of its transcript, under several instructions."
    needs: ClassVar[str] = "a model, a manifest with transcripts"
    makes: ClassVar[str] = f"{READINGS_NAME}: last hidden states, divergence of the next token; the nearest tokens"
    config_class: ClassVar[type[StageConfig]] = RepresentationsConfig

    def inputs(self, config: RepresentationsConfig) -> list[Path]:
        """The speech, and the model where it is a folder."""
        return [config.manifest, *model_inputs(config.model, speech=config.hears in BY_ADAPTER)]

    def outputs(self, config: RepresentationsConfig) -> list[Path]:
        """The readings."""
        return [config.out / READINGS_NAME, config.out / FACTS_NAME]

    def plan(self, config: RepresentationsConfig) -> Plan:
        """Prompts to read."""
        facts: dict[str, str | int | float] = {"instructions": ", ".join(config.instructions)}
        if not config.manifest.exists():
            return Plan(facts, notes=[f"the test set is not there yet: {config.manifest}"])
        n = len(spread(len(Manifest(config.manifest)), config.max_utterances))
        return Plan({**facts, "utterances": n, "prompts": 2 * n * len(config.instructions)})

    def run(self, config: RepresentationsConfig, watcher: Watcher) -> dict[str, Any]:
        """Read all prompts; one process does it.

        Raises:
            DataError: An utterance has no transcript.
        """
        if not is_main_process():
            return {}
        manifest = Manifest(config.manifest)
        utterances = [manifest[i] for i in spread(len(manifest), config.max_utterances).tolist()]
        for utterance in utterances:
            if not utterance.text:
                raise DataError(f"{manifest.path}: {utterance.id!r} has no transcript to compare its speech with.")
        return _read(config, utterances, manifest, watcher)


def _read(
    config: RepresentationsConfig, utterances: list[Utterance], manifest: Manifest, watcher: Watcher
) -> dict[str, Any]:
    from safetensors.torch import save_file

    from blsp.analysis.representations import next_token_divergence, read_prompts, same_next_token
    from blsp.evaluation.hypotheses import as_read
    from blsp.evaluation.systems import shared_system
    from blsp.storage import storage_errors, write_json_atomically

    system = shared_system(config.model, config.hears)
    waveforms = [load_waveform(utterance, manifest.root) for utterance in utterances]
    transcripts = [as_read(utterance.text) for utterance in utterances]
    given = _inputs(system, waveforms, transcripts, config.language)
    options: dict[str, Any] = {"batch_size": config.batch_size, "watcher": watcher}
    text = read_prompts(system.model, transcripts, config.instructions, **options)
    speech = text if given is transcripts else read_prompts(system.model, given, config.instructions, **options)
    divergence, same = next_token_divergence(text, speech), same_next_token(text, speech)
    tensors = {"speech": speech.states, "text": text.states, "divergence": divergence, "same_next_token": same}
    facts: dict[str, Any] = {"names": list(text.names), "ids": [u.id for u in utterances]}
    if system.hears == "speech":
        facts["picture"] = _picture(system, utterances, waveforms)
    with storage_errors(config.out):
        save_file({name: x.clone().contiguous() for name, x in tensors.items()}, config.out / READINGS_NAME)
        write_json_atomically(config.out / FACTS_NAME, facts)
    means = zip(text.names, divergence.mean(dim=1).tolist())
    return {"utterances": len(utterances), **{f"KL_{name}": round(mean, 4) for name, mean in means}}


def _inputs(
    system: System, waveforms: list[np.ndarray], transcripts: list[str], language: str
) -> list[np.ndarray] | list[str]:
    """What the LLM gets for each utterance."""
    if system.hears == "transcript":
        return transcripts
    if system.hears == "speech":
        return waveforms
    assert system.recogniser is not None
    return system.recogniser(waveforms, language)


def _picture(system: System, utterances: list[Utterance], waveforms: list[np.ndarray]) -> dict[str, Any] | None:
    """The tokens nearest to the speech of the first utterance that fits a picture."""
    from blsp.analysis.nearest_tokens import match_tokens

    low, high = PICTURE_SECONDS
    for utterance, waveform in zip(utterances, waveforms):
        if low <= utterance.duration <= high:
            return {"id": utterance.id, **dataclasses.asdict(match_tokens(system.model, waveform))}
    return None
