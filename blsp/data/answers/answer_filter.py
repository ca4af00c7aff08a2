"""Which of an LLM's answers are worth learning: none that is empty, refuses, goes round in circles, or breaks off.

A small LLM refuses much of what it is asked, in the same few words whatever was said: an adapter that learns from
these learns nothing about the speech.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fault = Literal["empty", "refusal", "loop", "cut"]
"""Why an answer is not learnt."""
FAULTS: tuple[Fault, ...] = ("empty", "refusal", "loop", "cut")
"""In the order in which they are looked for."""

_LOOP_MAX_WORDS = 12
"""Longest stretch of words that counts as repeated in a row."""
_LOOP_MIN_WORDS = 9
"""Words that such stretches fill together, at least."""
_NGRAM = 3
_NGRAM_REPEATS = 4
"""So often the same three words come in an answer that is held together by them..."""
_NGRAM_SHARE = 0.5
"""...and fill this share of it."""
_SAME_LINES = 3
"""So often the same line or sentence comes, anywhere in the answer."""

_SUBJECT = r"(?:i|i'm|i am|unfortunately,? i|we|we're|we are)"
_REFUSAL = re.compile(
    "|".join(
        (
            r"^\W*(?:oh,? |unfortunately,? |well,? )?(?:i'm|i am|we're|we are)? ?(?:so |very |really |truly )?"
            r"(?:sorry(?! to hear\b)|afraid(?! of\b))\b",
            r"^\W*(?:i|my|please accept my) apologi[sz]e?s?\b",
            r"\bas an? (?:[\w-]+ ){0,4}(?:ai|a\.i\.|chatbot|language model|virtual assistant|digital assistant)\b",
            r"\b(?:i'm|i am) (?:just|only|merely) an? (?:[\w-]+ ){0,3}(?:ai|a\.i\.|chatbot|language model|program)\b",
            rf"\b{_SUBJECT} (?:can't|cannot|can not|could not|couldn't|won't) (?:really |currently |directly )?"
            r"(?:assist|help|provide|answer|fulfil|fulfill|comply|offer|access|browse|generate|create|do this)\b",
            rf"\b{_SUBJECT} (?:don't|do not) have (?:the |an? |any )?(?:direct |real-time |personal |physical )?"
            r"(?:ability|abilities|capability|capabilities|capacity|access|information|feelings|emotions|experiences)\b",
            rf"\b{_SUBJECT} (?:currently )?(?:not (?:equipped|able|capable|designed|programmed)|unable)\b",
        )
    ),
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e)|\b[A-Z]|^\W*\d+)\.$", re.IGNORECASE)
_WHOLE = re.compile(r"[.!?…:][\"')\]*]*$")


@dataclass(frozen=True)
class AnswerFilter:
    """Which answers of the LLM are left out; those without a word always are. Repetitions are never judged."""

    refusals: bool = True
    """Leave out apologies and refusals: I'm sorry, but ...; As an AI ...; I can't help ..."""
    loops: bool = True
    """Leave out answers that say the same over and over: words in a row, lines, sentences, or the same three words."""
    cut: bool = False
    """Leave out answers that the limit of tokens cut off inside a sentence. Otherwise they are learnt as far as they
    go, without an end."""
    phrases: tuple[str, ...] = ()
    """Leave out also what contains one of these, in whatever case."""

    def fault(self, response: str, *, finished: bool) -> Fault | None:
        """Why an answer is left out; None if it is not.

        Args:
            response: What the LLM wrote.
            finished: Whether it came to its own end.
        """
        if not any(c.isalnum() for c in response):
            return "empty"
        plain = response.replace("’", "'").lower()
        if (self.refusals and refuses(response)) or any(phrase.lower() in plain for phrase in self.phrases):
            return "refusal"
        if self.loops and loops(response):
            return "loop"
        return "cut" if self.cut and not finished and not is_whole(response) else None


def refuses(response: str) -> bool:
    """Whether an answer apologises, or says that an AI cannot do such things."""
    return _REFUSAL.search(response.replace("’", "'")) is not None


def loops(response: str) -> bool:
    """Whether an answer says the same over and over."""
    words = response.lower().split()
    return _repeats_in_a_row(words) or _is_held_together(words) or _says_lines_again(response)


def is_whole(response: str) -> bool:
    """Whether an answer ends where a sentence does."""
    return _WHOLE.search(response.rstrip()) is not None


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text, without white space around them."""
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        sentence = text[start : match.start()]
        if "\n" not in match.group() and _ABBREVIATION.search(sentence):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    return [sentence for sentence in [*found, text[start:].strip()] if sentence]


def _repeats_in_a_row(words: Sequence[str]) -> bool:
    """Whether a stretch of words comes three times in a row somewhere, and fills nine words or more."""
    if len(words) - len(set(words)) < _LOOP_MIN_WORDS - _LOOP_MIN_WORDS // 3:  # such a loop repeats six words or more
        return False
    for period in range(1, min(_LOOP_MAX_WORDS, len(words) // 3) + 1):
        run = 0
        for word, later in zip(words, words[period:]):
            run = run + 1 if word == later else 0
            if run + period >= max(3 * period, _LOOP_MIN_WORDS):
                return True
    return False


def _is_held_together(words: Sequence[str]) -> bool:
    """Whether the same three words come again and again, with little between them."""
    if len(words) < _NGRAM * _NGRAM_REPEATS:
        return False
    grams = Counter(zip(*(words[i:] for i in range(_NGRAM))))
    most = max(grams.values())
    return most >= _NGRAM_REPEATS and most * _NGRAM >= _NGRAM_SHARE * len(words)


def _says_lines_again(response: str) -> bool:
    """Whether a line or sentence comes three times, wherever."""
    said = Counter("".join(c for c in sentence.lower() if c.isalnum()) for sentence in sentences(response))
    del said[""]
    return any(count >= _SAME_LINES for count in said.values())
