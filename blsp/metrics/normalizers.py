"""Text -> the form in which references and hypotheses are compared."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from importlib.resources import files

from blsp.errors import UnsupportedError

Normalizer = Callable[[str], str]

ENGLISH = "whisper-english"
"""Whisper's English normaliser: lower case, no punctuation, numbers as digits, American spelling."""
BASIC = "whisper-basic"
"""Whisper's normaliser for other languages: lower case, no punctuation; diacritics stay."""
NONE = "none"
"""Only white space is tidied."""


def normalizer(name: str) -> Normalizer:
    """The normaliser of a name; the name belongs beside every error rate.

    Args:
        name: `whisper-english`, `whisper-basic` or `none`.

    Raises:
        UnsupportedError: There is no such normaliser.
    """
    known: dict[str, Callable[[], Normalizer]] = {ENGLISH: _english, BASIC: _basic, NONE: lambda: _tidy}
    if name not in known:
        raise UnsupportedError(f"There is no text normaliser {name!r}.", hint=f"Use one of: {', '.join(known)}")
    return known[name]()


def normalizer_for(language: str) -> str:
    """Name of the normaliser that suits a language, given by its code or English name."""
    return ENGLISH if language.lower() in ("en", "english") else BASIC


@functools.cache
def _english() -> Normalizer:
    """Whisper's English normaliser.

    The code is transformers' copy; the spelling list is OpenAI's own, as transformers has it only in model
    repositories. It drops "hmm", "uh" and the like, and spells out contractions.

    Source: Whisper, appendix C.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    spelling = json.loads(files("blsp").joinpath("assets/text/english_spelling.json").read_text(encoding="utf-8"))
    normalize = EnglishTextNormalizer(spelling)
    return lambda text: _tidy(normalize(text))


@functools.cache
def _basic() -> Normalizer:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normalize = BasicTextNormalizer()
    return lambda text: _tidy(normalize(text))


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
