"""What an LLM does with transcripts: the behaviours that the adapter is to bring about with speech.

Source: paper section 3, step 1; table 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from blsp.conversation import Turn
from blsp.data.line_store import LineStore, Shard, read_lines
from blsp.errors import DataError
from blsp.instructions import CONTINUE, REPEAT, TRANSLATE, Instruction

if TYPE_CHECKING:
    from blsp.data.answering import Answerer
    from blsp.data.manifest import Manifest

CONTINUATION, REPETITION = "continuation", "repetition"
BEHAVIOURS: dict[str, str] = {
    CONTINUATION: CONTINUE,
    REPETITION: REPEAT,
    "chat": "",
    "summary": "Please summarize the following text in one short sentence.",
    "sentiment": "Please classify the emotional tone of the text as either positive, negative, or neutral.",
    "translation": TRANSLATE.format(language="German"),
    "paraphrase": "Please say the following in other words.",
    "question": "Please ask a question about the following text, then answer it.",
}
"""Behaviours and the instructions that prompt them. Continuation and repetition are the paper's (table 1), sentiment
and translation its tasks (table 11); in `chat` the transcript itself is what the LLM answers."""
Case = Literal["keep", "lower", "true", "auto"]
BATCHES_IN_CHUNK = 16
_LOOP_MAX_WORDS = 12
_LOOP_MIN_WORDS = 9


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
    """Whether it came to its own end, rather than to the limit of tokens."""


@dataclass(frozen=True)
class Behaviour:
    """A behaviour to write."""

    name: str
    instruction: Instruction
    share: float = 1.0
    """Share of the utterances for which it is written."""
    copies: bool = False
    """The response is the transcript itself: no LLM is asked (paper section 3, repetition)."""


@functools.cache
def asr_instructions() -> tuple[str, ...]:
    """A hundred ways to ask for a transcript, for ASR pretraining.

    The paper had GPT-4 write its hundred, and did not publish them; these are our own.

    Source: paper appendix A.
    """
    text = files("blsp").joinpath("assets/text/asr_instructions.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read_behaviours(path: Path) -> Iterator[BehaviourLine]:
    """Lines of a behaviours file, in the order of the manifest.

    Raises:
        DataError: The file cannot be read, or a line is none of a behaviour.
    """
    kinds = {"id": str, "behaviour": str, "instruction": str, "response": str, "finished": bool}
    for number, fields in read_lines(path, hint="Write it with a config whose stage is `behaviours`."):
        for name, kind in kinds.items():
            if not isinstance(fields.get(name), kind):
                raise DataError(f"{path}:{number}: {name!r} must be a {kind.__name__}, but is {fields.get(name)!r}.")
        yield BehaviourLine(**{name: fields[name] for name in kinds})


def usable(line: BehaviourLine) -> bool:
    """Whether there is something to learn from a line: words, and not the same ones over and over."""
    words = line.response.lower().split()
    return any(c.isalnum() for c in line.response) and not _loops(words)


def _loops(words: Sequence[str]) -> bool:
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


def _shown(transcript: str, case: Case, spelling: tuple[Path, ...]) -> str:
    """A transcript as the LLM is to see it; `auto` makes one all in capitals lower-case."""
    text = transcript.strip()
    if case == "lower" or (case == "auto" and text.isupper()):
        return text.lower()
    return _true_speller(spelling)(text).strip() if case == "true" else text


@functools.cache
def _true_speller(spelling: tuple[Path, ...]) -> Callable[[str], str]:
    from blsp.data.samples import speller

    return speller("true", spelling)


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
    seed: int = 0
    """Start of the random numbers that share out utterances."""

    def items(self, n_utterances: int) -> np.ndarray:
        """Numbers of utterances and behaviours, int64 (n, 2), in the order of the manifest.

        Shares are exact to the line. Behaviours whose shares add up to no more than 1 get different utterances.
        """
        chosen = spread(n_utterances, self.max_utterances)
        shuffled = np.random.default_rng(self.seed).permutation(chosen)
        parts, bound = [], 0.0
        for number, behaviour in enumerate(self.behaviours):
            start, bound = round(bound * len(chosen)), bound + behaviour.share
            utterances = shuffled[np.arange(start, round(bound * len(chosen))) % max(1, len(chosen))]
            parts.append(np.stack([utterances, np.full(len(utterances), number)], axis=1))
        items = np.concatenate(parts)
        ordered: np.ndarray = items[np.lexsort((items[:, 1], items[:, 0]))]
        return ordered


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
    items = plan.items(len(manifest))
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
            store.write({number: asdict(lines[number]) for number in written})
            done += len(written)
            if watch is not None:
                watch(done, total)
    store.publish()


@dataclass(frozen=True)
class _Draft:
    """A line, and what the LLM is to be asked for it, if anything."""

    line: BehaviourLine
    turns: Sequence[Turn] | None


def _draft(manifest: Manifest, plan: BehaviourPlan, utterance_number: int, behaviour_number: int) -> _Draft:
    utterance, behaviour = manifest[utterance_number], plan.behaviours[behaviour_number]
    text = _shown(utterance.text, plan.case, plan.spelling)
    asks = bool(text) and not behaviour.copies
    line = BehaviourLine(utterance.id, behaviour.name, behaviour.instruction.text, "" if asks else text, bool(text))
    return _Draft(line, behaviour.instruction.text_turns(text) if asks else None)


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
        yield {
            fitting[place]: replace(drafts[fitting[place]].line, response=answer.text.strip(), finished=answer.finished)
            for place, answer in answers.items()
        }
