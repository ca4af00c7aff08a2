"""How a conversation becomes what the LLM reads: token ids with gaps for speech.

A template hands out the pieces of its format one by one, so what was rendered for the first turns is always a
prefix of what is rendered for more of them: a key-value cache of the past stays valid. What the user typed is
tokenised on its own and never as special tokens, so text cannot pose as a change of speaker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from blsp.conversation import Turn

CACHED_SPEECH: npt.NDArray[np.float32] = np.zeros(0, dtype=np.float32)
"""Speech of a turn whose encoder states or embeddings are given separately, as in training from a feature cache."""


@dataclass(frozen=True)
class TokenSegment:
    """A stretch of text as the LLM's token ids."""

    ids: tuple[int, ...]
    learnt: bool = False
    """Whether it is an earlier answer that the LLM is to learn too."""


@dataclass(frozen=True, eq=False)
class SpeechSegment:
    """A gap that speech embeddings fill."""

    waveform: npt.NDArray[np.float32]
    """Mono waveform at 16 kHz, float32 (N,); `CACHED_SPEECH` where the embeddings come from elsewhere."""


Segment = TokenSegment | SpeechSegment


class PromptTemplate(Protocol):
    """The format in which an LLM reads a conversation.

    A prompt is `opening`, then for each exchange `user`, `answer`, `answer_closing`; it ends after `user` where
    the LLM is to answer.
    """

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer."""

    @property
    def answer_end(self) -> tuple[int, ...]:
        """What the LLM learns to write after its answer: up to and including a stop token."""

    @property
    def answer_closing(self) -> tuple[int, ...]:
        """What stands between an answer and the next user's turn."""

    def opening(self, system: str | None) -> tuple[int, ...]:
        """What comes before the first user's turn."""

    def user(self, turn: Turn) -> list[Segment]:
        """A user's turn: instruction text, speech, and the opening of the answer."""

    def answer(self, text: str) -> tuple[int, ...]:
        """An answer's text."""


class PaperPromptTemplate:
    r"""The paper's format: `###[Human]:<instruction><speech>\n\n\n###[Assistant]:<answer>`.

    It has no system turn: a system text stands in front. It has no special tokens either, so where the user
    types one of its markers a blank is put inside (`### [Human]:`).

    Source: paper section 4.1; blanks, the begin token and later turns as in cwang621/blsp.
    """

    stop_strings = ("\n\n\n###[Human]:", "###[Human]:", "###[Assistant]:")

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._text = PlainText(tokenizer)
        self._begin = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
        self.answer_end: tuple[int, ...] = (_eos(tokenizer),)
        self.answer_closing = self._text.ids("\n\n\n")
        self.stop_token_ids = frozenset(self.answer_end)
        self._assistant = TokenSegment(self._text.ids("\n\n\n###[Assistant]:"))

    def opening(self, system: str | None) -> tuple[int, ...]:
        """The begin token, and the system text if there is one."""
        return self._begin + (self._text.ids(f"{_break_markers(system)}\n\n\n") if system else ())

    def user(self, turn: Turn) -> list[Segment]:
        """Marker and instruction in one piece, speech, marker of the answer."""
        human = TokenSegment(self._text.ids("###[Human]:" + _break_markers(turn.text)))
        return [human, *_speech(turn), self._assistant]

    def answer(self, text: str) -> tuple[int, ...]:
        """An answer's text."""
        return self._text.ids(_break_markers(text))


class ChatPromptTemplate:
    """The format of the tokenizer's own chat template.

    The template is rendered once around stand-ins, and cut at them. Where it refuses a system turn, the system
    text is put before the first user's text.

    Args:
        tokenizer: Tokenizer with a chat template.

    Raises:
        ValueError: There is no chat template, or it does not keep turns in order.
    """

    stop_strings: tuple[str, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ValueError("`tokenizer` must have a chat template, but `tokenizer.chat_template` is empty instead.")
        self._tokenizer = tokenizer
        before, after_user, between, answer_opening = self._cut([_message("user", 0), *_EXCHANGE])
        try:
            cuts = self._cut([_message("system", 9), _message("user", 0), *_EXCHANGE])
            self._system = cuts[0], cuts[1]
        except Exception as error:
            if not _refuses_system(error):
                raise
            self._system = before, "\n\n"
        self._before = self._control(before)
        self._answer_opening = TokenSegment(self._control(answer_opening))
        self.answer_closing = self._control(between)
        self.answer_end = self._end_of(self.answer_closing)
        self.stop_token_ids = frozenset({_eos(tokenizer), self.answer_end[-1]})
        self._text = PlainText(tokenizer, control=before + after_user + between + answer_opening)

    def opening(self, system: str | None) -> tuple[int, ...]:
        """Everything before the first user's text; without `system`, what the template itself puts there."""
        if system is None:
            return self._before
        before, after = self._system
        return self._control(before) + self._text.ids(system) + self._control(after)

    def user(self, turn: Turn) -> list[Segment]:
        """Instruction, speech, and what the template writes before an answer."""
        instruction = TokenSegment(self._text.ids(turn.text))
        return [*([instruction] if turn.text else []), *_speech(turn), self._answer_opening]

    def answer(self, text: str) -> tuple[int, ...]:
        """An answer's text."""
        return self._text.ids(text)

    def _control(self, text: str) -> tuple[int, ...]:
        """Ids of the template's own text, special tokens included."""
        return tuple(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _cut(self, messages: list[dict[str, str]]) -> list[str]:
        """Render the messages, and cut the result at the messages' contents."""
        # enable_thinking is read by templates of reasoning models, and ignored by the others
        rendered: Any = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        pattern = "(.*?)".join(["", *(re.escape(message["content"]) for message in messages), ""])
        match = re.fullmatch(pattern, rendered, flags=re.DOTALL)
        if match is None:
            raise ValueError(f"`tokenizer.chat_template` must write turns in order, but writes {rendered!r} instead.")
        return list(match.groups())

    def _end_of(self, closing: tuple[int, ...]) -> tuple[int, ...]:
        """The part of `closing` that the LLM writes itself: up to the first special token."""
        special = {self._tokenizer.convert_tokens_to_ids(token) for token in self._tokenizer.all_special_tokens}
        special |= {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        position = next((i for i, token_id in enumerate(closing) if token_id in special), None)
        return (_eos(self._tokenizer),) if position is None else closing[: position + 1]


class PlainText:
    """Text to token ids, none of which is a special token, whatever the text says.

    Args:
        tokenizer: The LLM's tokenizer.
        control: Text of the prompt format: added tokens in it count as special even if not declared so.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: str = "") -> None:
        self._tokenizer = tokenizer
        self._special = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or token.content in control
        ]

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, without any begin or end token."""
        ids: list[int] = []
        for part in _split_inside(text, self._special):
            ids += self._tokenizer(part, add_special_tokens=False, split_special_tokens=True).input_ids
        return tuple(ids)


def render(template: PromptTemplate, turns: Sequence[Turn], *, learnt_from: int | None = None) -> list[Segment]:
    """The prompt for `turns`; if they end with the user, up to where the LLM answers.

    What is missing between two turns of one side is rendered as empty.

    Args:
        template: The LLM's prompt format.
        turns: The conversation.
        learnt_from: Answers from this turn on are marked as learnt; None marks none.

    Raises:
        ValueError: A system turn is not the first.
    """
    has_system = bool(turns) and turns[0].role == "system"
    segments: list[Segment] = [TokenSegment(template.opening(turns[0].text if has_system else None))]
    answering = False
    for number, turn in enumerate(turns):
        if number == 0 and has_system:
            continue
        learnt = learnt_from is not None and number >= learnt_from
        segments += turn_segments(template, turn, answering=answering, learnt=learnt)
        answering = turn.role == "user"
    return segments


def turn_segments(template: PromptTemplate, turn: Turn, *, answering: bool, learnt: bool = False) -> list[Segment]:
    """One turn of the user or the assistant; `answering` says that a user's turn waits for its answer."""
    closing = TokenSegment(template.answer_closing)
    if turn.role == "user":
        return [*([closing] if answering else []), *template.user(turn)]
    if turn.role == "assistant":
        answer: list[Segment] = [TokenSegment(template.answer(turn.text), learnt), closing]
        return answer if answering else [*template.user(Turn("user")), *answer]
    raise ValueError(f"`turns` must have a system turn only in front, but has one later: {turn.text!r}.")


def _message(role: str, number: int) -> dict[str, str]:
    return {"role": role, "content": f"standin{number}content"}


_EXCHANGE = [_message("assistant", 1), _message("user", 2)]


def _refuses_system(error: Exception) -> bool:
    """Whether a chat template failed on purpose (jinja2 raises), or wrote the turns in another order."""
    return isinstance(error, ValueError) or type(error).__module__.partition(".")[0] == "jinja2"


def _speech(turn: Turn) -> list[Segment]:
    return [] if turn.speech is None else [SpeechSegment(turn.speech)]


def _break_markers(text: str | None) -> str:
    return re.sub(r"###\[", "### [", text or "")


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` must have an end token, but `tokenizer.eos_token_id` is None instead.")
    return int(tokenizer.eos_token_id)


def _split_inside(text: str, tokens: Iterable[str]) -> list[str]:
    """Cut `text` after the first character of each occurrence of a token, so that no part holds one."""
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if len(token) > 1)
    if not pattern:
        return [text]
    cuts = [match.start() + 1 for match in re.finditer(f"(?={pattern})", text)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)]) if start < end]
