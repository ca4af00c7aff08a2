"""Who speaks which sentence: a mix of text-to-speech engines and their voices, drawn by number."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from blsp.data.synthesis.accents import AccentName
from blsp.data.synthesis.kokoro_voices import HELD_OUT_VOICES, TRAINING_VOICES
from blsp.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np

    from blsp.data.synthesis.kokoro import KokoroSynthesizer
    from blsp.data.synthesis.render import Synthesizer

FLITE_VOICES = ("slt", "rms", "awb")
_GROUPS = {"training": TRAINING_VOICES, "held_out": HELD_OUT_VOICES}
_KNOWN = {"kokoro": (*TRAINING_VOICES, *HELD_OUT_VOICES), "flite": FLITE_VOICES, "hibari": ()}
_DEFAULT = {"kokoro": TRAINING_VOICES, "flite": FLITE_VOICES, "hibari": ()}
_ENGINE, _VOICE = 2, 3
"""Last numbers of the seeds that engine and named voice are drawn with, apart from other draws for a sentence."""


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """Voices of one text-to-speech engine."""

    engine: Literal["hibari", "kokoro", "flite"] = "hibari"
    """hibari: one network, random voices, 60 times faster than speech; kokoro: 28 good voices, twice as fast as
    speech; flite: three plain voices, where Debian's flite is installed."""
    share: float = 1.0
    """How many of the sentences they speak, relative to the others' shares."""
    voices: tuple[str, ...] = ()
    """Names of kokoro's or flite's voices, or `training` (20 of kokoro's; the default) and `held_out` (the other 8)."""
    tempo: tuple[float, float] = (0.85, 1.2)
    """Range of the speaking rate of kokoro and flite; hibari's random voices have their own."""
    accent: AccentName | None = None
    """First language of hibari's voices, whose sounds they speak English with; by default it is English."""

    def __post_init__(self) -> None:
        if not self.share > 0:
            raise ValueError(f"`share` must be above 0, but is {self.share}.")
        if not 0.5 <= self.tempo[0] <= self.tempo[1] <= 2:
            raise ValueError(f"`tempo` must be a range from low to high between 0.5 and 2, but is {self.tempo}.")
        if self.engine == "hibari" and self.voices:
            raise ValueError(f"`voices` must be empty for hibari, whose voices are random, but is {self.voices}.")
        if self.engine != "hibari" and self.accent is not None:
            raise ValueError(f"`accent` must be null for {self.engine}, but is {self.accent}: only hibari has any.")
        for name in self.named_voices:
            if name not in _KNOWN[self.engine]:
                known = ", ".join([*(_GROUPS if self.engine == "kokoro" else ()), *_KNOWN[self.engine]])
                raise ValueError(f"`voices` of {self.engine} must be among {known}, but one is {name}.")

    @property
    def named_voices(self) -> tuple[str, ...]:
        """The voices by name, groups resolved; empty for hibari."""
        if not self.voices:
            return _DEFAULT[self.engine]
        groups = _GROUPS if self.engine == "kokoro" else {}
        return tuple(name for voice in self.voices for name in groups.get(voice, (voice,)))


@dataclass(frozen=True)
class Speakers:
    """Speaks sentences by number; who does depends on the number and the seeds only."""

    mix: Sequence[SpeakerConfig]
    seed: int = 0
    voices_seed: int = 0
    n_voices: int | None = None
    """How many of hibari's random voices there are; None: one for each sentence."""

    def name(self, number: int) -> str:
        """Who speaks a sentence: `voice-0000012`, `kokoro-af_heart` or `flite-slt`."""
        speaker = self._speaker(number)
        if speaker.engine == "hibari":
            return f"voice-{self._random_voice(number):07d}"
        return f"{speaker.engine}-{self._named_voice(speaker, number)[0]}"

    def speak(self, number: int, text: str) -> np.ndarray:
        """Speak a sentence.

        Returns:
            Mono waveform at 16 kHz, float32 (N,); N is 0 where nothing in the text can be spoken.

        Raises:
            UnsupportedError: The engine is not installed.
            DownloadError: Kokoro could not be fetched.
        """
        from blsp.data.synthesis.render import random_voice, speak_with_flite

        speaker = self._speaker(number)
        if speaker.engine == "hibari":
            voice = random_voice(_random(self.voices_seed, self._random_voice(number)), speaker.accent)
            return self._hibari.speak(text, voice, _random(self.seed, self.voices_seed, number))
        name, tempo = self._named_voice(speaker, number)
        if speaker.engine == "flite":
            if shutil.which("flite") is None:
                raise UnsupportedError("flite is not installed.", hint="sudo apt-get install flite")
            return speak_with_flite(text, name, tempo)
        return self._kokoro.speak(text, name, tempo)

    def _speaker(self, number: int) -> SpeakerConfig:
        if len(self.mix) == 1:
            return self.mix[0]
        import numpy as np

        shares = np.cumsum([speaker.share for speaker in self.mix])
        drawn = _random(self.seed, self.voices_seed, number, _ENGINE).uniform(0, shares[-1])
        return self.mix[int(np.searchsorted(shares, drawn, side="right"))]

    def _random_voice(self, number: int) -> int:
        if self.n_voices is None:
            return number
        return int(_random(self.seed, self.voices_seed, number, 1).integers(self.n_voices))

    def _named_voice(self, speaker: SpeakerConfig, number: int) -> tuple[str, float]:
        """Name of a sentence's voice, and its tempo."""
        rng = _random(self.seed, self.voices_seed, number, _VOICE)
        names = speaker.named_voices
        return names[int(rng.integers(len(names)))], round(float(rng.uniform(*speaker.tempo)), 3)

    @cached_property
    def _hibari(self) -> Synthesizer:
        from blsp.data.synthesis import render as synthesis

        if importlib.util.find_spec("hibari") is None:
            raise UnsupportedError("Speech synthesis needs hibari-tts.", hint="pip install 'voicechat[train]'")
        return synthesis.Synthesizer()

    @cached_property
    def _kokoro(self) -> KokoroSynthesizer:
        from blsp.data.synthesis import kokoro

        return kokoro.KokoroSynthesizer()


def _random(*numbers: int) -> np.random.Generator:
    """Random numbers that depend on these alone."""
    import numpy as np  # not needed to read and plan a config

    return np.random.default_rng(numbers)


def missing_engines(mix: Sequence[SpeakerConfig]) -> list[str]:
    """What has to be installed before these voices can speak, a line each."""
    engines = {speaker.engine for speaker in mix}
    missing = []
    if engines & {"hibari", "kokoro"} and importlib.util.find_spec("hibari") is None:
        missing.append("The package hibari-tts is not installed.")
    if "flite" in engines and shutil.which("flite") is None:
        missing.append("The program flite is not installed (sudo apt-get install flite).")
    return missing
