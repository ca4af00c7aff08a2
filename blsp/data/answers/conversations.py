"""Conversations of two or three turns, drawn from utterances and answered by an LLM turn by turn.

The adapter hears one utterance after another there, as it does when somebody talks to it: what it learns from single
utterances alone need not hold behind an answer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blsp.conversation import Turn
from blsp.data.answers.answer_filter import is_whole, sentences
from blsp.data.answers.behaviours import matching, shown
from blsp.data.answers.wordings import CONVERSATION
from blsp.data.line_store import LineStore, Shard
from blsp.data.transcripts import Case
from blsp.errors import DataError
from blsp.json_lines import read_lines

if TYPE_CHECKING:
    from blsp.data.answers.answering import Answer, Answerer
    from blsp.data.manifest import Manifest

QUESTIONS = (
    r"\?\W*$|^\W*(?:please |okay,? |so |and )?(?:what|who|whose|where|when|why|how|which|is|are|do|does|did|can|could|"
    r"would|will|should|tell|give|explain|describe|name|list|write|count|spell|find|show|help)\b"
)
"""Finds what asks for an answer."""


@dataclass(frozen=True)
class ConversationTurn:
    """What one side said and the other answered."""

    utterance: str
    """Id of what was said."""
    spoken: bool
    """Whether it was, or its transcript typed."""
    text: str
    """The transcript, as the LLM read it."""
    answer: str = ""
    """What the LLM wrote."""
    finished: bool = False
    """Whether it came to its own end."""
    top_tokens: str | None = None
    """What was expected at each token of the answer (`TopTokens.encode`); not in the file where that was not kept."""

    def fields(self) -> dict[str, Any]:
        """What the file holds of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ConversationLine:
    """A conversation; the last turn is always spoken."""

    id: str
    """Of the last utterance."""
    turns: tuple[ConversationTurn, ...]
    """In their order."""
    system: str | None = None
    """Who the LLM was told to be; None for what its prompt format says by itself, and then not in the file."""

    def fields(self) -> dict[str, Any]:
        """What the file holds of it."""
        system = {} if self.system is None else {"system": self.system}
        return {"id": self.id, "behaviour": CONVERSATION, "turns": [turn.fields() for turn in self.turns], **system}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], where: str) -> ConversationLine:
        """What a line of the file `where` holds.

        Raises:
            DataError: It is not a conversation.
        """
        try:
            turns = tuple(ConversationTurn(**turn) for turn in fields["turns"])
            if not turns or not turns[-1].spoken:
                raise ValueError("the last turn must be spoken")
            return cls(fields["id"], turns, fields.get("system"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where} must hold a conversation, but does not: {error!r}.") from error

    def prompt(self, n_turns: int) -> list[Turn]:
        """What the LLM reads before it answers turn `n_turns`, in text."""
        before = [Turn("system", self.system)] if self.system is not None else []
        for turn in self.turns[: n_turns - 1]:
            before += [Turn("user", turn.text), Turn("assistant", turn.answer)]
        return [*before, Turn("user", self.turns[n_turns - 1].text)]

    def answered(self, n_turns: int, answer: Answer) -> ConversationLine:
        """The conversation with the answer to turn `n_turns`."""
        turns = list(self.turns)
        text = answer.text.strip()
        turns[n_turns - 1] = replace(
            turns[n_turns - 1], answer=text, finished=answer.finished, top_tokens=answer.kept_tokens
        )
        if n_turns < len(turns) and not answer.finished:  # what is said next follows on whole sentences
            turns[n_turns - 1] = replace(turns[n_turns - 1], answer=_whole_sentences(text))
        return replace(self, turns=tuple(turns))


@dataclass(frozen=True)
class ConversationPlan:
    """Which conversations are made of the utterances of a manifest."""

    n_conversations: int
    """How many; fewer where there are not as many utterances, since each ends one conversation at most."""
    turns: tuple[int, ...] = (2, 3)
    """Lengths, each equally often."""
    typed: float = 0.2
    """Share of the turns before the last that are typed."""
    only: str | None = QUESTIONS
    """Take only utterances in whose transcript this regular expression is found, whatever the case; null: all."""
    case: Case = "auto"
    """How transcripts are spelled for the LLM: as they are, lower case, true case, or by need."""
    spelling: tuple[Path, ...] = ()
    """Texts from which true case is learned."""
    system: str | None = None
    """Who the LLM is told to be."""
    seed: int = 0
    """Start of the random numbers that draw utterances."""

    def draw(self, manifest: Manifest) -> list[tuple[list[int], list[bool]]]:
        """Numbers of the utterances of each conversation, and which of them are spoken."""
        numbers = matching(manifest, self.only or r"\w")
        last = np.random.default_rng(self.seed).permutation(numbers)[: self.n_conversations]
        drawn = []
        for i, number in enumerate(last.tolist()):
            n_turns = min(self.turns[i % len(self.turns)], len(numbers))
            rng = np.random.default_rng([self.seed, i])
            places = rng.choice(len(numbers), size=n_turns, replace=False)  # looks at these only, of millions
            others = [other for other in numbers[places].tolist() if other != number]
            spoken = (rng.random(n_turns - 1) >= self.typed).tolist()
            drawn.append(([*others[: n_turns - 1], number], [*spoken, True]))
        return drawn


def read_conversations(path: Path) -> Iterator[ConversationLine]:
    """Lines of a conversations file.

    Raises:
        DataError: The file cannot be read, or a line is not a conversation.
    """
    for number, fields in read_lines(path, hint="Write it with a config whose stage is `conversations`."):
        yield ConversationLine.from_fields(fields, f"{path}:{number}")


def write_conversations(
    path: Path,
    manifest: Manifest,
    plan: ConversationPlan,
    answerer: Callable[[], Answerer],
    *,
    batch_size: int = 32,
    watch: Callable[[int, int], None] | None = None,
) -> None:
    """Let an LLM answer conversations turn by turn, in text, a JSON line for each conversation.

    Every process writes its share of the batches (`Shard.of_process`). What a killed run has left is kept; the lines
    do not depend on who writes them nor when.

    Args:
        path: The file, which appears once all its lines are there.
        manifest: Utterances with transcripts.
        plan: What is made.
        answerer: Loads the LLM; called once there is something to answer.
        batch_size: Conversations that are answered together.
        watch: Told how many conversations of this process are there, of how many in batches that lacked some.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        DataError: The manifest cannot be read, or no utterance of it is as wanted.
    """
    drawn = plan.draw(manifest)
    if not drawn:
        raise DataError(f"{manifest.path} has no utterance for a conversation.", hint="See `only` in the config.")
    store = LineStore(path, len(drawn), Shard.of_process())
    answerer = functools.cache(answerer)
    chunks = list(store.chunks(batch_size))
    done, total = 0, sum(len(chunk) for chunk in chunks)
    for chunk in chunks:
        drafts = [_draft(manifest, plan, *drawn[number]) for number in chunk]
        lines = _answered(drafts, answerer())
        store.write({number: line.fields() for number, line in zip(chunk, lines)})
        done += len(chunk)
        if watch is not None:
            watch(done, total)
    store.publish()


def _draft(
    manifest: Manifest, plan: ConversationPlan, numbers: Sequence[int], spoken: Sequence[bool]
) -> ConversationLine:
    utterances = [manifest[number] for number in numbers]
    turns = tuple(
        ConversationTurn(utterance.id, is_spoken, shown(utterance.text, plan.case, plan.spelling))
        for utterance, is_spoken in zip(utterances, spoken)
    )
    return ConversationLine(utterances[-1].id, turns, plan.system)


def _answered(lines: list[ConversationLine], llm: Answerer) -> list[ConversationLine]:
    """The conversations with their answers; what does not fit the LLM's context stays unanswered."""
    lines = list(lines)
    for n_turns in range(1, max(len(line.turns) for line in lines) + 1):
        waiting = [i for i, line in enumerate(lines) if len(line.turns) >= n_turns]
        prompts = {i: llm.format.prompt_ids(lines[i].prompt(n_turns)) for i in waiting}
        fitting = [i for i in waiting if llm.format.fits(prompts[i])]
        for answers in llm.answer([prompts[i] for i in fitting], range(len(fitting))):
            for place, answer in answers.items():
                lines[fitting[place]] = lines[fitting[place]].answered(n_turns, answer)
    return lines


def _whole_sentences(text: str) -> str:
    """An answer without the sentence in which it was cut off, if there is another."""
    found = sentences(text)
    return text if len(found) < 2 or is_whole(text) else text[: text.rindex(found[-1])].rstrip()
