"""Accents: what is said instead, and where."""

from __future__ import annotations

import numpy as np
import pytest

from blsp.data.synthesis.accents import Accent, Slip, random_accent


def accent(*slips: Slip) -> Accent:
    return Accent(slips)


@pytest.mark.parametrize(
    ("slip", "phonemes", "said"),
    [
        (Slip("th", "θ", ("s",), 1.0), "θɹˈi θˈɪn, bˈOθ", "sɹˈi sˈɪn, bˈOs"),
        (Slip("s", "z", ("s",), 1.0, "end"), "zˈu ɪz, zˈɪɡzæɡz.", "zˈu ɪs, zˈɪɡzæɡs."),
        (Slip("r", "ɹ", ("l",), 1.0, "start"), "ɹˈɛd kˈɑɹ", "lˈɛd kˈɑɹ"),
        (Slip("stops", "t", ("",), 1.0, "coda"), "tɹˈi lˈɛft, ɪtsˈɛlf təˈu", "tɹˈi lˈɛf, ɪsˈɛlf təˈu"),
        (Slip("stops", "t", ("tə",), 1.0, "end"), "lˈɛft, təˈu", "lˈɛftə, təˈu"),
        (Slip("never", "t", ("d",), 0.0), "tˈu", "tˈu"),
    ],
)
def test_sounds_change_where_they_are_to(slip: Slip, phonemes: str, said: str) -> None:
    assert accent(slip).pronounce(phonemes, np.random.default_rng(0)) == said


def test_only_the_first_slip_happens() -> None:
    first, second = Slip("a", "z", ("s",), 1.0), Slip("b", "s", ("",), 1.0)
    assert accent(first, second, Slip("a", "z", ("d",), 1.0)).pronounce("zˈis", np.random.default_rng(0)) == "sˈi"


def test_speakers_differ_and_keep_their_habits() -> None:
    sentence = "ðə θɹˈi ʧˈɪldɹᵊn θˈɪŋk ðæt ðɪs vˈɪlɪʤ ɪz vˈɛɹi θˈɪn ænd ɹˈɪʧ."
    speakers = [random_accent("mandarin", np.random.default_rng(seed)) for seed in range(8)]
    assert len({speaker.slips for speaker in speakers}) == 8
    said = {speaker.pronounce(sentence, np.random.default_rng(0)) for speaker in speakers}
    assert len(said) == 8
    again = random_accent("mandarin", np.random.default_rng(3))
    assert again.pronounce(sentence, np.random.default_rng(0)) in said
    for speaker in speakers:
        shares = {slip.habit: slip.chance for slip in speaker.slips}
        assert all(0 <= share <= 1 for share in shares.values())


@pytest.mark.slow
def test_a_whole_language_of_slips_can_be_spoken() -> None:
    """What an accent makes of phonemes must be phonemes that the network knows."""
    hibari = pytest.importorskip("hibari").Hibari()
    for slip in random_accent("mandarin", np.random.default_rng(0)).slips:
        for sounds in (slip.sound, *slip.becomes):
            assert set(sounds) <= set(hibari.vocab), slip
