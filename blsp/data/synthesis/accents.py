"""How people pronounce a language that they learnt later: phonemes of English, as speakers of another one say them.

A text-to-speech network says any row of phonemes it is given. Each speaker has some of the habits only, and not always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

AccentName = Literal["mandarin"]
Place = Literal["anywhere", "start", "end", "coda"]
_VOWELS = "AIOQWYaeiouæøœɐɑɒɔəɚɛɜɤɨɪɯʊʌᵊᵻ"
_AFTER_AN_ONSET = _VOWELS + "ɹlwjˈˌ"
"""What a consonant before it begins a syllable with; before anything else it ends one."""
_SILENT = 'ˈˌ.,;:!?—…"()“”'
_STRENGTHS = (0.3, 1.3)
"""Weakest and strongest accent; multiplies the chance of every slip."""


@dataclass(frozen=True)
class Slip:
    """One thing that may happen to a sound."""

    habit: str
    """What slips of one kind have in common: who makes one often makes the others often."""
    sound: str
    """One phoneme of hibari-tts."""
    becomes: tuple[str, ...]
    """What is said instead, one of these; twice as often what stands here twice."""
    chance: float
    """Of a speaker with a middling accent."""
    place: Place = "anywhere"
    """Where: `end` of a word; `coda`: there, or before a consonant; `start`: anywhere but at the end."""


_MANDARIN = (
    Slip("th", "θ", ("s", "s", "s", "s", "s", "f"), 0.65),
    Slip("th", "ð", ("z", "d"), 0.5),
    Slip("v", "v", ("w", "w", "f"), 0.4),
    Slip("v", "w", ("v",), 0.08),
    Slip("l and r", "ɹ", ("l",), 0.12, "start"),
    Slip("l and r", "l", ("ɹ", "ɹ", "n"), 0.1, "start"),
    Slip("l and r", "n", ("l",), 0.06, "start"),
    Slip("r after vowels", "ɹ", ("",), 0.3, "coda"),
    Slip("l after vowels", "l", ("", "ʊ", "ɹ"), 0.35, "coda"),
    Slip("nasals", "n", ("ŋ",), 0.2, "end"),
    Slip("nasals", "ŋ", ("n",), 0.3),
    Slip("nasals", "m", ("n",), 0.12, "end"),
    Slip("short i", "ɪ", ("i",), 0.35),
    Slip("short i", "i", ("ɪ",), 0.15),
    Slip("open e", "æ", ("ɛ",), 0.4),
    Slip("open e", "ɛ", ("æ", "A"), 0.2),
    Slip("open e", "A", ("ɛ",), 0.12),
    Slip("short u", "ʌ", ("ɑ",), 0.3),
    Slip("short u", "ʊ", ("u",), 0.35),
    Slip("o", "O", ("ɔ",), 0.2),
    Slip("o", "ɔ", ("O",), 0.2),
    Slip("weak vowels", "ə", ("ɑ", "ɛ", "i"), 0.2),
    Slip("weak vowels", "ᵊ", ("ɑ", "ɛ", "i"), 0.2),
    Slip("syllables", "T", ("t",), 0.7),  # the flap of "better"
    Slip("syllables", "ˈ", ("",), 0.15),
    Slip("syllables", "ˌ", ("",), 0.15),
    Slip("s", "z", ("s",), 0.4, "end"),
    Slip("s", "z", ("s",), 0.15),
    Slip("s", "s", ("",), 0.12, "end"),
    Slip("s", "ʒ", ("ʃ",), 0.5),
    Slip("s", "ʃ", ("s",), 0.08),
    *(Slip("stops dropped", stop, ("",), 0.25, "coda") for stop in "ptkbdɡ"),
    *(Slip("stops voiceless", stop, (said,), 0.35, "coda") for stop, said in zip("bdɡ", "ptk")),
    *(Slip("stops released", stop, (f"{stop}ə",), 0.12, "end") for stop in "ptkbdɡ"),
)
"""Source: Swan and Smith, "Learner English", 2nd edition, chapter on Chinese speakers; the chances are guesses."""
_SLIPS: Mapping[AccentName, tuple[Slip, ...]] = {"mandarin": _MANDARIN}


@dataclass(frozen=True)
class Accent:
    """How one speaker pronounces English."""

    slips: tuple[Slip, ...]
    """What may happen, and how likely this speaker makes it so."""

    def pronounce(self, phonemes: str, rng: np.random.Generator) -> str:
        """A sentence as it is said this time; of several slips that could happen to a sound the first that does."""
        return " ".join(self._word(word, rng) for word in phonemes.split(" "))

    def _word(self, word: str, rng: np.random.Generator) -> str:
        said = []
        for i, sound in enumerate(word):
            rest = word[i + 1 :]
            for slip in self.slips:
                if slip.sound == sound and _stands(slip.place, rest) and rng.random() < slip.chance:
                    said.append(slip.becomes[int(rng.integers(len(slip.becomes)))])
                    break
            else:
                said.append(sound)
        return "".join(said)


def random_accent(name: AccentName, rng: np.random.Generator) -> Accent:
    """Draw a speaker: how strong the accent is as a whole, and how much of each habit it has."""
    strength, habits = float(rng.uniform(*_STRENGTHS)), dict[str, float]()
    slips = []
    for slip in _SLIPS[name]:
        share = habits.setdefault(slip.habit, 2 * float(rng.random()))
        slips.append(replace(slip, chance=min(1.0, slip.chance * strength * share)))
    return Accent(tuple(slips))


def _stands(place: Place, rest: str) -> bool:
    """Whether a sound is in some place, by what follows it in the word."""
    at_end = not rest.strip(_SILENT)
    if place == "end":
        return at_end
    if place == "start":
        return not at_end
    return place == "anywhere" or at_end or rest[0] not in _AFTER_AN_ONSET
