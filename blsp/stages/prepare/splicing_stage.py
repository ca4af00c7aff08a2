"""Stage `splicing`: new sentences from pieces of a few speakers' recordings."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from blsp.data.line_store import LineStore, Shard
from blsp.data.manifest import Manifest, Utterance, load_waveform, write_manifest
from blsp.errors import ConfigError, DataError
from blsp.json_lines import read_lines
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig

if TYPE_CHECKING:
    import numpy as np

    from blsp.audio.waveform import Waveform
    from blsp.data.speech.splicing import Gap, Piece
    from blsp.modeling.model import BlspModel

FILE_NAME, GAPS_NAME, AUDIO_NAME = "manifest.jsonl", "gaps.jsonl", "audio"
_AT_ONCE = 16
_TIMES_REAL_TIME = 30.0
"""Rough speed of finding gaps on one core."""


@dataclass(frozen=True, kw_only=True)
class SplicingConfig(StageConfig):
    """Which recordings are cut, and what becomes of the pieces."""

    manifest: Path
    """Recordings with transcripts and speakers; what has no speaker, or numbers in digits, is left as it is."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Finds the words: its adapter reads letters."""
    copies: int = 1
    """How often each recording is cut up and used, each time in other pieces and other company."""
    min_seconds: float = 3.0
    """Shortest utterance that is aimed at."""
    max_seconds: float = 12.0
    """Longest one."""
    max_loudness: float = 0.3
    """Where recordings may be cut: root mean square of 20 ms there, compared with the whole recording."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ValueError(f"`copies` must be at least 1, but is {self.copies}.")
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ValueError(
                f"`min_seconds` must be above 0 and at most {self.max_seconds:g}, but is {self.min_seconds:g}."
            )
        if self.max_loudness <= 0:
            raise ValueError(f"`max_loudness` must be above 0, but is {self.max_loudness:g}.")


class SplicingStage(Stage[SplicingConfig]):
    """Cuts recordings between words, and puts pieces of the same speaker together."""

    name: ClassVar[str] = "splicing"
    about: ClassVar[str] = "Puts pieces of a speaker's recordings together to sentences that nobody has heard."
    needs: ClassVar[str] = "a manifest with transcripts and speakers; a model whose adapter reads letters"
    makes: ClassVar[str] = f"{AUDIO_NAME}/*.flac and {FILE_NAME}"
    config_class: ClassVar[type[StageConfig]] = SplicingConfig

    def inputs(self, config: SplicingConfig) -> list[Path]:
        """Recordings' manifest and model."""
        return [config.manifest, *model_inputs(config.model, speech=True)]

    def outputs(self, config: SplicingConfig) -> list[Path]:
        """The manifest; it names the recordings."""
        return [config.out / FILE_NAME]

    def plan(self, config: SplicingConfig) -> Plan:
        """How much speech there is."""
        if not config.manifest.exists():
            return Plan(notes=[f"{config.manifest} is not there yet: recordings are counted once it is."])
        manifest = Manifest(config.manifest)
        facts = {"recordings": len(manifest), "hours": round(manifest.hours * config.copies, 2)}
        return Plan(facts, seconds=3600 * manifest.hours / _TIMES_REAL_TIME)

    def run(self, config: SplicingConfig, watcher: Watcher) -> dict[str, Any]:
        """Find the gaps, deal out the pieces, write what is not written yet; several processes share both.

        Raises:
            ConfigError: The model's adapter reads no letters.
            DataError: No recording has a speaker and words.
        """
        shard = Shard.of_process()
        manifest = Manifest(config.manifest)
        gaps = _gaps(config, manifest, watcher)
        utterances = _utterances(config, manifest, gaps)
        if not utterances:
            raise DataError(f"{config.manifest} has no recording that could be cut: none has a speaker and words.")
        for number in range(shard.rank, len(utterances), shard.world):
            _write(config, manifest, number, utterances[number])
            watcher.advance(number + 1, len(utterances), "utterance", {})
        if shard.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
        return _write_manifest(config, manifest, utterances) if shard.rank == 0 else {}


def _gaps(config: SplicingConfig, manifest: Manifest, watcher: Watcher) -> list[list[Gap]]:
    """Gaps of each recording; those of recordings without a speaker are not looked for."""
    from blsp.data.speech.splicing import Gap, find_gaps

    store = LineStore(config.out / GAPS_NAME, len(manifest))
    model = None
    for chunk in store.chunks(_AT_ONCE):
        numbers = [number for number in chunk if number not in store]
        named = [number for number in numbers if manifest[number].speaker is not None]
        found: dict[int, list[Gap]] = {number: [] for number in numbers}
        if named:
            model = model or config.model.load()
            waveforms = [load_waveform(manifest[number], manifest.root) for number in named]
            scores = _read_letters(model, waveforms, config.model.name)
            found |= {n: find_gaps(w, manifest[n].text, s) for n, w, s in zip(named, waveforms, scores)}
        store.write({number: {"gaps": [asdict(gap) for gap in gaps]} for number, gaps in found.items()})
        watcher.advance(store.n_done, len(manifest), "recording", {})
    store.publish()
    return [[Gap(**gap) for gap in line["gaps"]] for _, line in read_lines(store.path)]


def _read_letters(model: BlspModel, waveforms: Sequence[Waveform], name: str) -> list[np.ndarray]:
    """Log-probabilities of blank and letters in each recording, float32 (T, 1 + letters).

    Raises:
        ConfigError: The model's adapter reads no letters.
    """
    import numpy as np
    import torch

    from blsp.decoding.speech_reader import speech_reader

    if model.adapter is None or not model.adapter.config.letters:
        raise ConfigError(f"The adapter of {name} reads no letters.", hint="Use another one: model.name=embedded")
    with torch.inference_mode():
        states, lengths, n_windows = speech_reader(model).encode_speech(waveforms)
        _, _, letters = model.adapter.forward_with_letters(states, lengths)
    assert letters is not None  # the config says so
    scores = letters.logits.float().log_softmax(dim=2).cpu().numpy()
    windows = [row[:n] for row, n in zip(scores, letters.lengths.tolist())]
    starts = np.cumsum([0, *n_windows])
    return [np.concatenate(windows[first:stop]) for first, stop in itertools.pairwise(starts)]


def _utterances(config: SplicingConfig, manifest: Manifest, gaps: Sequence[Sequence[Gap]]) -> list[list[Piece]]:
    """What is put together, speaker by speaker; depends on the config only."""
    import numpy as np

    from blsp.audio.waveform import SAMPLING_RATE
    from blsp.data.speech.splicing import cut, recombine

    by_speaker = defaultdict(list)
    for number, utterance in enumerate(manifest):
        if utterance.speaker is not None and gaps[number]:
            by_speaker[utterance.speaker].append((number, round(utterance.duration * SAMPLING_RATE), utterance.text))
    utterances: list[list[Piece]] = []
    for index, speaker in enumerate(sorted(by_speaker)):
        for copy in range(config.copies):
            rng = np.random.default_rng([config.seed, index, copy])
            pieces = [
                piece
                for number, n_samples, text in by_speaker[speaker]
                for piece in cut(number, n_samples, text, gaps[number], config.max_loudness, rng)
            ]
            utterances += recombine(pieces, config.min_seconds, config.max_seconds, rng)
    return utterances


def _audio(config: SplicingConfig, number: int) -> Path:
    return config.out / AUDIO_NAME / f"{number:07d}.flac"


def _write(config: SplicingConfig, manifest: Manifest, number: int, pieces: Sequence[Piece]) -> None:
    from blsp.audio.write import save_audio
    from blsp.data.speech.splicing import splice
    from blsp.storage import storage_errors

    path = _audio(config, number)
    if path.is_file():
        return
    with storage_errors(config.out):
        path.parent.mkdir(parents=True, exist_ok=True)
    waveforms = {i: load_waveform(manifest[i], manifest.root) for i in {piece.recording for piece in pieces}}
    save_audio(path, splice([waveforms[piece.recording][piece.start : piece.end] for piece in pieces]))


def _write_manifest(
    config: SplicingConfig, manifest: Manifest, utterances: Sequence[Sequence[Piece]]
) -> dict[str, Any]:
    from blsp.data.speech.recordings import duration_of

    for half_written in (config.out / AUDIO_NAME).glob(".*"):  # a kill leaves them
        half_written.unlink()

    def line(number: int, pieces: Sequence[Piece]) -> Utterance:
        path, source = _audio(config, number), manifest[pieces[0].recording]
        return Utterance(
            id=f"{number:07d}",
            audio=path.relative_to(config.out).as_posix(),
            duration=duration_of(path),
            text=" ".join(piece.text for piece in pieces),
            speaker=source.speaker,
            language=source.language,
        )

    summary = write_manifest(config.out / FILE_NAME, (line(n, pieces) for n, pieces in enumerate(utterances)))
    n_pieces = sum(map(len, utterances))
    return {"utterances": summary.n_utterances, "hours": round(summary.hours, 3), "pieces": n_pieces}
