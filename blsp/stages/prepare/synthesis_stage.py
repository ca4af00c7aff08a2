"""Stage `synthesis`: sentences -> speech in many voices, for tests and for what no corpus says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.manifest import ErrorCount, Manifest, Utterance, write_manifest
from blsp.data.synthesis.speakers import SpeakerConfig, Speakers, missing_engines
from blsp.environment import launched_count, launched_rank
from blsp.errors import BlspError, DataError
from blsp.json_lines import parse_object
from blsp.progress import Watcher
from blsp.stages.prepare.manifest_stage import sample
from blsp.stages.stage import Plan, Stage, StageConfig

FILE_NAME, HELD_OUT_NAME, AUDIO_NAME = "manifest.jsonl", "held_out.jsonl", "audio"
READBACK_NAME = "readback.jsonl"
_SECONDS_PER_SENTENCE = {"hibari": 0.2, "kokoro": 4.0, "flite": 0.2}
"""Rough time that an engine takes to speak one sentence on one core."""


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig(StageConfig):
    """What is spoken, and by whom."""

    texts: tuple[Path, ...]
    """Sentences: .txt with one a line, or .jsonl with `text` and perhaps `spoken` (how it is read aloud, where that is
    not as it is written), `translation` and `label`. English."""
    max_utterances: int | None = None
    """Speak so many sentences, chosen at random by the seed; all by default."""
    only: str | None = None
    """Speak only sentences that match this regular expression as a whole: those whose reading aloud is beyond doubt."""
    new_to: tuple[Path, ...] = ()
    """Speak only sentences that are in none of these manifests, such as those that an adapter was trained on."""
    held_out: int = 0
    """The last so many sentences go to a manifest of their own, for validation."""
    copies: int = 1
    """How often each sentence is spoken, each time in a voice drawn anew."""
    speakers: tuple[SpeakerConfig, ...] = (SpeakerConfig(),)
    """Whose voices speak, by engine and share; by default hibari's random ones."""
    voices: int | None = None
    """How many different random voices speak; by default every sentence has its own."""
    voices_seed: int = 0
    """Start of the random numbers that voices are drawn with."""
    readback_max_wer: float | None = None
    """Leave out what the embedded Whisper reads back with more word errors than this, in percent; null: nothing is
    read back. Reading takes a core about two seconds an utterance. Times and telephone numbers, which can be written in
    many ways, often fail."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("`texts` must name at least one file, but is empty.")
        for path in self.texts:
            if path.suffix not in (".txt", ".jsonl"):
                raise ValueError(f"`texts` must be .txt or .jsonl files, but one is {path}.")
        if not self.speakers:
            raise ValueError("`speakers` must name at least one engine, but is empty.")
        for name in ("max_utterances", "voices", "copies"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value}.")
        try:
            re.compile(self.only or "")
        except re.error as error:
            raise ValueError(f"`only` must be a regular expression, but is {self.only!r} instead: {error}.") from error
        if self.readback_max_wer is not None and self.readback_max_wer < 0:
            raise ValueError(f"`readback_max_wer` must not be negative, but is {self.readback_max_wer}.")
        if self.held_out < 0:
            raise ValueError(f"`held_out` must not be negative, but is {self.held_out}.")
        if self.held_out % self.copies:
            raise ValueError(f"`held_out` must be a multiple of `copies` ({self.copies}), but is {self.held_out}.")


@dataclass(frozen=True)
class Sentence:
    """What is to be spoken."""

    text: str
    translation: str | None = None
    label: str | None = None
    spoken: str | None = None
    """How it is read aloud, where that is not as it is written."""


class SynthesisStage(Stage[SynthesisConfig]):
    """Speaks sentences."""

    name: ClassVar[str] = "synthesis"
    about: ClassVar[str] = "Speaks sentences in many synthetic voices (hibari, Kokoro, flite): a corpus of one's own."
    needs: ClassVar[str] = "English sentences, one a line; the extra `train`"
    makes: ClassVar[str] = f"{AUDIO_NAME}/*.flac, {FILE_NAME} and {HELD_OUT_NAME}"
    config_class: ClassVar[type[StageConfig]] = SynthesisConfig

    def inputs(self, config: SynthesisConfig) -> list[Path]:
        """The texts, and the manifests that they are to be new to."""
        return [*config.texts, *config.new_to]

    def outputs(self, config: SynthesisConfig) -> list[Path]:
        """The manifests; they name the recordings."""
        made = {HELD_OUT_NAME: config.held_out, READBACK_NAME: config.readback_max_wer is not None}
        return [config.out / FILE_NAME, *(config.out / name for name, is_made in made.items() if is_made)]

    def plan(self, config: SynthesisConfig) -> Plan:
        """How many sentences there are."""
        problems = missing_engines(config.speakers)
        if not all(path.is_file() for path in self.inputs(config)):
            return Plan(notes=["Sentences are counted once the texts are there."], problems=problems)
        n_sentences = len(sentences(config))
        facts = {"utterances": max(0, n_sentences - config.held_out), "held out": min(config.held_out, n_sentences)}
        if config.held_out >= n_sentences:
            problems.append(f"`held_out` is {config.held_out}, but there are {n_sentences} sentences.")
        return Plan(facts, seconds=n_sentences * _seconds_per_sentence(config), problems=problems)

    def run(self, config: SynthesisConfig, watcher: Watcher) -> dict[str, Any]:
        """Speak what is not spoken yet; several processes share the sentences."""
        rank, world = launched_rank(), launched_count()
        todo = sentences(config)
        if config.held_out >= len(todo):
            raise DataError(f"`held_out` is {config.held_out}, but there are {len(todo)} sentences.")
        _speak(config, todo, range(rank, len(todo), world), watcher)
        if world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
        unread = _read_back(config, todo, watcher)
        if rank != 0:
            return {}
        return _write_manifests(config, todo, unread)


def sentences(config: SynthesisConfig) -> list[Sentence]:
    """What is to be spoken, in order; the copies of a sentence follow each other.

    Raises:
        DataError: A file cannot be read, or a line of it holds no sentence.
    """
    found = [sentence for path in config.texts for sentence in _read(path)]
    if config.only is not None:
        found = [sentence for sentence in found if re.fullmatch(config.only, sentence.text)]
    if config.new_to:
        known = {_plain(utterance.text) for path in config.new_to for utterance in Manifest(path)}
        found = [sentence for sentence in found if _plain(sentence.text) not in known]
    if config.max_utterances is not None:
        found = sample(found, config.max_utterances, config.seed)
    if not found:
        raise DataError(f"{', '.join(map(str, config.texts))}: there are no sentences.")
    return [sentence for sentence in found for _ in range(config.copies)]


def _plain(text: str) -> str:
    """A sentence by its letters and digits: case and marks make no new one."""
    return "".join(c for c in text.casefold() if c.isalnum())


def _seconds_per_sentence(config: SynthesisConfig) -> float:
    total = sum(speaker.share for speaker in config.speakers)
    return sum(_SECONDS_PER_SENTENCE[speaker.engine] * speaker.share for speaker in config.speakers) / total


def _read(path: Path) -> Iterator[Sentence]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if path.suffix == ".txt":
                    if line.strip():
                        yield Sentence(" ".join(line.split()))
                else:
                    yield _sentence(line, f"{path}, line {number}")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _sentence(line: str, where: str) -> Sentence:
    try:
        values = parse_object(line)
        text, others = values["text"], {name: values.get(name) for name in ("translation", "label", "spoken")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{where} must be {{"text": ...}}, but is {line.strip()!r}.') from error
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} has no text to speak.")
    return Sentence(" ".join(text.split()), **others)


def _audio(config: SynthesisConfig, number: int) -> Path:
    return config.out / AUDIO_NAME / f"{number:07d}.flac"


def _speakers(config: SynthesisConfig) -> Speakers:
    return Speakers(config.speakers, config.seed, config.voices_seed, config.voices)


def _speak(config: SynthesisConfig, todo: list[Sentence], numbers: range, watcher: Watcher) -> None:
    """Make the recordings that are not there yet; each depends on its own number and the seeds only."""
    from blsp.audio.write import save_audio
    from blsp.storage import storage_errors

    with storage_errors(config.out):
        (config.out / AUDIO_NAME).mkdir(parents=True, exist_ok=True)
    missing = [number for number in numbers if not _audio(config, number).is_file()]
    speakers = _speakers(config)
    n_before, errors = len(numbers) - len(missing), ErrorCount(total=len(numbers))
    for n_done, number in enumerate(missing, start=n_before + 1):
        text = todo[number].spoken or todo[number].text
        try:
            waveform = speakers.speak(number, text)
        except BlspError:
            raise
        except Exception as error:  # engines of others stumble over odd texts, each in its way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            errors.note(config.out, None, f"{text!r} cannot be spoken: {reason.rstrip('.')}")
            watcher.message(f"Left out: {errors.errors[-1]}")
            continue
        if len(waveform):
            save_audio(_audio(config, number), waveform)
        watcher.advance(n_done, len(numbers), "utterance", {})


def _read_back(config: SynthesisConfig, todo: list[Sentence], watcher: Watcher) -> set[int]:
    """Numbers of the utterances that a recogniser reads too badly."""
    if config.readback_max_wer is None:
        return set()
    from blsp.data.answers.readback import read_back
    from blsp.data.line_store import LineStore
    from blsp.json_lines import read_lines

    def advance(n_done: int) -> None:
        watcher.advance(n_done, len(todo), "utterance read back", {})

    path = config.out / READBACK_NAME
    read_back(LineStore(path, len(todo)), lambda n: _audio(config, n), [sentence.text for sentence in todo], advance)
    rates = [line["wer"] for _, line in read_lines(path)]
    return {n for n, rate in enumerate(rates) if rate is not None and rate > config.readback_max_wer}


def _write_manifests(config: SynthesisConfig, todo: list[Sentence], unread: set[int]) -> dict[str, Any]:
    """List what was spoken; sentences that no sound came of, or that could not be read back, are counted."""
    from blsp.data.speech.recordings import duration_of

    for half_written in (config.out / AUDIO_NAME).glob(".*"):  # a kill leaves them
        half_written.unlink()
    errors, utterances, speakers = ErrorCount(total=len(todo)), [], _speakers(config)
    n_trained = len(todo) - config.held_out
    for number, sentence in enumerate(todo):
        path = _audio(config, number)
        if not path.is_file():
            errors.note(config.out, None, f"nothing is spoken for {sentence.text!r}")
            continue
        if number in unread:
            continue
        utterances.append(
            (
                number < n_trained,
                Utterance(
                    id=f"{number:07d}",
                    audio=path.relative_to(config.out).as_posix(),
                    duration=duration_of(path),
                    text=sentence.text,
                    translation=sentence.translation,
                    label=sentence.label,
                    speaker=speakers.name(number),
                    language="en",
                ),
            )
        )
    summary = write_manifest(config.out / FILE_NAME, (u for is_trained, u in utterances if is_trained))
    result = {"utterances": summary.n_utterances, "hours": round(summary.hours, 3), "errors": len(errors)}
    if config.readback_max_wer is not None:
        result |= {"not read back": len(unread)}
    if config.held_out:
        held_out = write_manifest(config.out / HELD_OUT_NAME, (u for is_trained, u in utterances if not is_trained))
        result |= {"held out": held_out.n_utterances}
    return result
