"""What an LLM does with transcripts: the behaviours that the adapter is to bring about with speech.

Source: paper section 3, step 1; table 1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blsp.conversation import Turn
from blsp.data.answers.answer_filter import AnswerFilter, Fault, sentences
from blsp.data.answers.wordings import REPETITION
from blsp.data.line_store import LineStore, Shard
from blsp.data.transcripts import Case, speller
from blsp.errors import DataError
from blsp.instructions import Instruction
from blsp.json_lines import read_lines

if TYPE_CHECKING:
    from blsp.data.answers.answering import Answer, Answerer
    from blsp.data.manifest import Manifest

BATCHES_IN_CHUNK = 16


@dataclass(frozen=True)
class BehaviourLine:
    """What the LLM made of one transcript."""

    id: str
    """Of the utterance."""
    behaviour: str
    """Name of the behaviour."""
    instruction: str
    """What the LLM was told to do with the transcript."""
    response: str
    """What it wrote; empty where there was no transcript, or one too long for its context."""
    finished: bool
    """Whether it came to its own end, rather than to a limit of tokens or sentences."""
    system: str | None = None
    """Who the LLM was told to be; None for what its prompt format says by itself, and then not in the file."""
    top_tokens: str | None = None
    """What it expected at each token of the response, as `TopTokens.encode` writes it; not in the file where that was
    not kept."""

    def fields(self) -> dict[str, str | bool]:
        """What the file holds of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Behaviour:
    """A behaviour to write."""

    name: str
    instructions: tuple[Instruction, ...]
    """What the LLM is told, in one or more wordings that are used equally often."""
    share: float = 1.0
    """Share of the utterances for which it is written."""
    copies: bool = False
    """The response is the transcript itself: no LLM is asked (paper section 3, repetition)."""
    max_sentences: int | None = None
    """The response is cut after so many sentences."""


def read_behaviours(path: Path) -> Iterator[BehaviourLine]:
    """Lines of a behaviours file, in the order of the manifest.

    Raises:
        DataError: The file cannot be read, or a line is not an answer.
    """
    kinds = {"id": str, "behaviour": str, "instruction": str, "response": str, "finished": bool}
    optional = {"system": str, "top_tokens": str}
    for number, fields in read_lines(path, hint="Write it with a config whose stage is `behaviours`."):
        present = kinds | {name: kind for name, kind in optional.items() if fields.get(name) is not None}
        for name, kind in present.items():
            if not isinstance(fields.get(name), kind):
                raise DataError(f"{path}:{number}: {name!r} must be a {kind.__name__}, but is {fields.get(name)!r}.")
        yield BehaviourLine(**{name: fields[name] for name in present})


def fault(line: BehaviourLine, answers: AnswerFilter) -> Fault | None:
    """Why a line is not learnt from; None if it is. Of repetitions only empty ones are left out."""
    if line.behaviour == REPETITION:
        answers = AnswerFilter(refusals=False, loops=False)
    return answers.fault(line.response, finished=line.finished)


def shown(transcript: str, case: Case, spelling: tuple[Path, ...]) -> str:
    """A transcript as the LLM is to see it (`blsp.data.transcripts.speller`)."""
    return _speller(case, spelling)(transcript.strip()).strip()


_speller = functools.cache(speller)


@dataclass(frozen=True)
class BehaviourPlan:
    """Which behaviours are written for which utterances of a manifest."""

    behaviours: Sequence[Behaviour]
    case: Case = "auto"
    """How transcripts are spelled for the LLM: as they are, lower case, true case, or by need."""
    spelling: tuple[Path, ...] = ()
    """Texts from which true case is learned."""
    max_utterances: int | None = None
    """Utterances taken, evenly spread over the manifest; all by default."""
    only: str | None = None
    """Take only utterances in whose transcript this regular expression is found, whatever the case."""
    seed: int = 0
    """Start of the random numbers that share out utterances."""

    def items(self, utterances: int | np.ndarray) -> np.ndarray:
        """Numbers of utterances, behaviours and wordings, int64 (n, 3), in the order of the manifest.

        Shares are exact to the line. Behaviours whose shares add up to no more than 1 get different utterances.

        Args:
            utterances: How many there are, or the numbers of those that may be taken, int64 (m,).
        """
        numbers = np.arange(utterances) if isinstance(utterances, int) else utterances
        chosen = numbers[spread(len(numbers), self.max_utterances)]
        shuffled = np.random.default_rng(self.seed).permutation(chosen)
        parts, bound = [], 0.0
        for number, behaviour in enumerate(self.behaviours):
            start, bound = round(bound * len(chosen)), bound + behaviour.share
            own = shuffled[np.arange(start, round(bound * len(chosen))) % max(1, len(chosen))]
            wordings = np.arange(len(own)) % len(behaviour.instructions)
            parts.append(np.stack([own, np.full(len(own), number), wordings], axis=1))
        items = np.concatenate(parts)
        ordered: np.ndarray = items[np.lexsort((items[:, 1], items[:, 0]))]
        return ordered


def matching(manifest: Manifest, pattern: str | None) -> np.ndarray:
    """Numbers of the utterances in whose transcript a regular expression is found, int64 (n,)."""
    if pattern is None:
        return np.arange(len(manifest), dtype=np.int64)
    wanted = re.compile(pattern, re.IGNORECASE)
    found = (number for number, utterance in enumerate(manifest) if wanted.search(utterance.text))
    return np.fromiter(found, dtype=np.int64)


def spread(n: int, limit: int | None) -> np.ndarray:
    """`limit` of the numbers below `n`, evenly spread, int64; all of them where there is no limit."""
    count = n if limit is None else min(n, limit)
    return np.arange(count, dtype=np.int64) * n // max(1, count)


def write_behaviours(
    path: Path,
    manifest: Manifest,
    plan: BehaviourPlan,
    answerer: Callable[[], Answerer],
    *,
    batch_size: int = 32,
    watch: Callable[[int, int], None] | None = None,
) -> None:
    """Write what the LLM makes of the transcripts of a manifest, a JSON line for each utterance and behaviour.

    Every process writes its share of the chunks (`Shard.of_process`). What a killed run has left is kept. A chunk is
    always answered as a whole, in the same batches, so the lines do not depend on who writes them nor when.

    Args:
        path: The file, which appears once all its lines are there.
        manifest: Utterances with transcripts.
        plan: What is written.
        answerer: Loads the LLM; called once there is something to answer.
        batch_size: Rows in a batch of the LLM; a chunk is `BATCHES_IN_CHUNK` batches.
        watch: Told how many lines of this process' chunks are there, of how many in chunks that lacked some.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        DataError: The manifest cannot be read.
    """
    items = plan.items(matching(manifest, plan.only))
    store = LineStore(path, len(items), Shard.of_process())
    answerer = functools.cache(answerer)
    chunks = list(store.chunks(BATCHES_IN_CHUNK * batch_size))
    total = sum(len(chunk) for chunk in chunks)
    done = 0
    for chunk in chunks:
        drafts = {number: _draft(manifest, plan, *items[number].tolist()) for number in chunk}
        needed = {number for number in chunk if number not in store}
        done += len(chunk) - len(needed)
        for lines in _finished(drafts, needed, answerer):
            if not (written := sorted(needed & lines.keys())):
                continue
            store.write({number: lines[number].fields() for number in written})
            done += len(written)
            if watch is not None:
                watch(done, total)
    store.publish()


@dataclass(frozen=True)
class _Draft:
    """A line, and what the LLM is to be asked for it, if anything."""

    line: BehaviourLine
    turns: Sequence[Turn] | None
    max_sentences: int | None = None

    def answered(self, answer: Answer) -> BehaviourLine:
        """The line with what the LLM wrote, as much of it as is wanted."""
        text, finished = answer.text.strip(), answer.finished
        if self.max_sentences is not None and len(found := sentences(text)) > self.max_sentences:
            text, finished = " ".join(found[: self.max_sentences]), False
        return replace(self.line, response=text, finished=finished, top_tokens=answer.kept_tokens)


def _draft(
    manifest: Manifest, plan: BehaviourPlan, utterance_number: int, behaviour_number: int, wording: int
) -> _Draft:
    utterance, behaviour = manifest[utterance_number], plan.behaviours[behaviour_number]
    instruction = behaviour.instructions[wording]
    text = shown(utterance.text, plan.case, plan.spelling)
    asks = bool(text) and not behaviour.copies
    response, finished = ("" if asks else text), bool(text)
    line = BehaviourLine(utterance.id, behaviour.name, instruction.text, response, finished, instruction.system)
    return _Draft(line, instruction.text_turns(text) if asks else None, behaviour.max_sentences)


def _finished(
    drafts: Mapping[int, _Draft], needed: set[int], answerer: Callable[[], Answerer]
) -> Iterator[dict[int, BehaviourLine]]:
    """The lines of a chunk, by number, as they are ready; at least those that are needed."""
    yield {number: draft.line for number, draft in drafts.items() if draft.turns is None}
    asked = {number: draft.turns for number, draft in drafts.items() if draft.turns is not None}
    if not needed & asked.keys():
        return
    llm = answerer()
    ids = {number: llm.format.prompt_ids(turns) for number, turns in asked.items()}
    fitting = [number for number in ids if llm.format.fits(ids[number])]
    yield {number: replace(drafts[number].line, finished=False) for number in ids.keys() - set(fitting)}
    needed_places = {place for place, number in enumerate(fitting) if number in needed}
    for answers in llm.answer([ids[number] for number in fitting], needed_places):
        yield {fitting[place]: drafts[fitting[place]].answered(answer) for place, answer in answers.items()}
