"""Tokens -> text as they come: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"


class TextStream:
    """Turns tokens into text as they come: never half a character, never a part of a stop string.

    Args:
        tokenizer: The LLM's tokenizer.
        stop_strings: Texts that end the answer; they and what follows are not part of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_strings: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop_strings = stop_strings
        self._ids: list[int] = []
        self._start = self._end = 0  # tokens [start, end) were the last to become text; they give context to the next
        self._held = ""  # text that may turn out to begin a stop string
        self.text = ""
        """All text handed out so far."""
        self.stopped = False
        """Whether a stop string came."""

    def push(self, token_id: int) -> str:
        """Take one token; give the text that is certain now, maybe none."""
        self._ids.append(token_id)
        return self._release(self._decoded(complete=True), last=False)

    def finish(self) -> str:
        """Give what was held back."""
        return self._release(self._decoded(complete=False), last=True)

    def _decoded(self, *, complete: bool) -> str:
        """New text of the tokens since the last call; if `complete`, none while a character is half."""
        before = decode(self._tokenizer, self._ids[self._start : self._end])
        now = decode(self._tokenizer, self._ids[self._start :])
        if complete and (now.endswith(REPLACEMENT) or len(now) <= len(before)):
            return ""
        self._start, self._end = self._end, len(self._ids)
        return now[len(before) :]

    def _release(self, new: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [position for stop in self._stop_strings if (position := text.find(stop)) >= 0]
        self.stopped = bool(found)
        keep = 0 if last else max((_overlap(text, stop) for stop in self._stop_strings), default=0)
        cut = min(found) if found else len(text) - keep
        self._held = text[cut:]
        self.text += text[:cut]
        return text[:cut]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of an answer's tokens, special ones left out."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
