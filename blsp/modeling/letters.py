"""Letters as a training target: small units that few examples teach, on the way to the LLM's many tokens."""

from __future__ import annotations

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
"""What is read, in the order of the scores; everything else in a transcript is left out."""
_NUMBERS = {letter: number for number, letter in enumerate(LETTERS, start=1)}


def letter_labels(text: str, *, strip: bool = True) -> list[int]:
    """CTC labels of a text's letters, 0 being the blank: case and all but letters are left out.

    Args:
        text: The text.
        strip: Leave out spaces at its ends, and all but one between words.
    """
    plain = text.lower().replace("\u2019", "'")
    found = (_NUMBERS.get(letter) for letter in (" ".join(plain.split()) if strip else plain))
    return [number for number in found if number is not None]
