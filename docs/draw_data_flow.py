"""Draws how speech becomes an answer, for docs/how_it_works.md: `python docs/draw_data_flow.py docs/data_flow.svg`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1120, 690
BOX_WIDTH, BOX_HEIGHT = 250, 84
LEFT, TOP = 35, 96
COLUMN, ROW = 400, 144
"""From one box to the next, across and down."""
FILLS = {"plain": "#ffffff", "frozen": "#dbe7f3", "trained": "#ffe3b8"}
INK, SOFT, LINE = "#1f2933", "#52606d", "#7b8794"


@dataclass(frozen=True)
class Box:
    """A step, and the module that owns it."""

    column: int
    row: int
    title: str
    what: str
    owner: str
    kind: str = "plain"

    @property
    def left(self) -> int:
        """Left edge."""
        return LEFT + self.column * COLUMN

    @property
    def top(self) -> int:
        """Upper edge."""
        return TOP + self.row * ROW


SOUND = (
    Box(0, 0, "Microphone, or a file", "16-bit frames of 30 ms", "voicechat/hearing, blsp/audio"),
    Box(0, 1, "Speech detector", "is it speech? frame by frame", "blsp/audio/speech_detector.py"),
    Box(0, 2, "Endpointing", "begin and end of each utterance", "blsp/audio/endpointing.py"),
    Box(0, 3, "Log-mel spectrogram", "80 mel bands", "blsp/audio/log_mel.py"),
)
WORDS = (
    Box(1, 3, "Whisper's encoder", "what it sounds like", "blsp/modeling/encoder.py", "frozen"),
    Box(1, 2, "Adapter", "tokens and letters, how likely each", "blsp/modeling/adapter.py", "trained"),
    Box(1, 1, "Search", "words that fit sound and LLM", "blsp/decoding/search/"),
    Box(1, 0, "Prompt", "history, then what was just said", "blsp/modeling/prompt.py"),
)
ANSWER = (
    Box(2, 0, "LLM", "which token comes next", "blsp/models/load.py", "frozen"),
    Box(2, 1, "Conversation", "tokens as text, never half a letter", "blsp/decoding/conversation.py"),
    Box(2, 2, "Session", "turns, interruptions, the file on disk", "voicechat/sessions/"),
    Box(2, 3, "Screen, and a voice", "as it is written", "voicechat/ui, voicechat/answering"),
)
DOWN = ((SOUND, ("frames", "yes or no", "waveform, 16 kHz")), (ANSWER, ("tokens", "text, piece by piece", "events")))
UP = ("hidden_states, 50 Hz", "scores: tokens 12.5 Hz, letters 50 Hz", "words")


def draw() -> str:
    """The picture."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            ' aria-label="From the microphone to the answer: sound, words, answer"'
            ' font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif">',
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"'
            f' orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#fbfbf9"/>',
            *_headings(),
            *(_box(box) for box in (*SOUND, *WORDS, *ANSWER)),
            *_arrows(),
            *_legend(),
            "</svg>\n",
        ]
    )


def _headings() -> Iterator[str]:
    for column, (title, what) in enumerate(
        (("1  Sound", "no model yet"), ("2  What is said", "read from below"), ("3  The answer", ""))
    ):
        x = LEFT + column * COLUMN
        yield _text(x, 52, title, size=21, weight=700) + _text(x, 76, what, size=14, fill=SOFT)


def _box(box: Box) -> str:
    x, y = box.left, box.top
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{FILLS[box.kind]}"'
        f' stroke="{LINE}"/>'
        + _text(x + 14, y + 27, box.title, size=17, weight=600)
        + _text(x + 14, y + 48, box.what, size=13)
        + _text(x + 14, y + 69, box.owner, size=11, fill=SOFT, family="ui-monospace, DejaVu Sans Mono, monospace")
    )


def _arrows() -> Iterator[str]:
    for boxes, labels in DOWN:
        for above, below, label in zip(boxes, boxes[1:], labels):
            x = above.left + BOX_WIDTH // 2
            yield _line(f"M{x} {above.top + BOX_HEIGHT} V{below.top}")
            yield _text(x + 12, above.top + BOX_HEIGHT + 35, label, size=13, fill=SOFT)
    for below, above, label in zip(WORDS, WORDS[1:], UP):
        x = below.left + BOX_WIDTH // 2
        yield _line(f"M{x} {below.top} V{above.top + BOX_HEIGHT}")
        yield _text(x + 12, below.top - 25, label, size=13, fill=SOFT)
    mel, encoder, prompt, llm = SOUND[-1], WORDS[0], WORDS[-1], ANSWER[0]
    adapter, search = WORDS[1], WORDS[2]
    yield _across(mel, encoder, "input_features,", "100 Hz")
    yield _across(prompt, llm, "prompt_embeds", "")
    # The LLM is asked while words are looked for.
    x, y = search.left + BOX_WIDTH, search.top + BOX_HEIGHT // 2
    yield _line(f"M{llm.left} {llm.top + 66} H{x + 75} V{y} H{x}", dashed=True)
    yield _text(x + 12, y + 24, "language model", size=13, fill=SOFT) + _text(
        x + 12, y + 41, "scores", size=13, fill=SOFT
    )
    # Adapters that hand over embeddings go past the search.
    x = adapter.left
    yield _line(
        f"M{x} {adapter.top + BOX_HEIGHT // 2} H{x - 34} V{prompt.top + BOX_HEIGHT // 2} H{x}",
        dashed=True,
    )
    for i, word in enumerate(("speech_", "embeds,", "as in the", "paper")):
        yield _text(x - 100, search.top + 27 + 17 * i, word, size=13, fill=SOFT)


def _across(left: Box, right: Box, *lines: str) -> str:
    y, x = left.top + BOX_HEIGHT // 2 - 12, left.left + BOX_WIDTH
    words = "".join(_text(x + 18, y - 8 + 26 * i, line, size=13, fill=SOFT) for i, line in enumerate(lines))
    return _line(f"M{x} {y} H{right.left}") + words


def _legend() -> Iterator[str]:
    y = HEIGHT - 34
    for x, kind, text in (
        (LEFT, "trained", "trained"),
        (LEFT + 130, "frozen", "frozen: its weights stay as they came"),
        (LEFT + 460, "plain", "nothing to train"),
    ):
        yield f'<rect x="{x}" y="{y - 13}" width="22" height="16" rx="3" fill="{FILLS[kind]}" stroke="{LINE}"/>'
        yield _text(x + 32, y, text, size=13, fill=SOFT)
    yield _line(f"M{LEFT + 640} {y - 5} h40", dashed=True)
    yield _text(LEFT + 692, y, "by some adapters only", size=13, fill=SOFT)


def _line(path: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="6 5"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.6"{dashes} marker-end="url(#tip)"/>'


def _text(
    x: int, y: int, text: str, *, size: int, weight: int = 400, fill: str = INK, family: str | None = None
) -> str:
    font = f' font-family="{family}"' if family else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}"{font}>{escape(text)}</text>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
