"""Ways to say what is to be done with an utterance: texts of our own, shipped with the package."""

from __future__ import annotations

import functools
from importlib.resources import files

from blsp.instructions import CONTINUE, REPEAT, TRANSLATE

CONTINUATION, REPETITION, CHAT, SHORT_ANSWER = "continuation", "repetition", "chat", "short_answer"
CONVERSATION = "conversation"


@functools.cache
def asr_instructions() -> tuple[str, ...]:
    """A hundred ways to ask for a transcript, for ASR pretraining.

    The paper had GPT-4 write its hundred, and did not publish them; these are our own.

    Source: paper appendix A.
    """
    return tuple(_text("asr_instructions.txt").splitlines())


@functools.cache
def behaviour_wordings() -> dict[str, tuple[str, ...]]:
    """Behaviours and the instructions that prompt them, each in one or more wordings.

    Continuation and repetition are the paper's (table 1), and so are the first wording of sentiment and the one of
    translation (table 11). In `chat` the transcript itself is what the LLM answers.
    """
    wordings: dict[str, tuple[str, ...]] = {
        CONTINUATION: (CONTINUE,),
        REPETITION: (REPEAT,),
        CHAT: ("",),
        "translation": (TRANSLATE.format(language="German"),),
    }
    for line in _text("behaviour_instructions.tsv").splitlines():
        name, _, wording = line.partition("\t")
        wordings[name] = (*wordings.get(name, ()), wording)
    return wordings


def _text(name: str) -> str:
    return files("blsp").joinpath(f"assets/text/{name}").read_text(encoding="utf-8")
