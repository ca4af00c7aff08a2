"""General questions about what was said: writing them, judging answers, and measures that need no judge.

Source: paper section 5.1 and appendix C, listings 1 and 2.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from blsp.json_lines import read_lines
from blsp.metrics.normalizers import ENGLISH, normalizer
from blsp.metrics.utterance_counts import UtteranceStatistics, accuracy_statistics, mean_statistics

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel

TextWriter = Callable[[Sequence[str]], list[str]]
"""Prompts -> answers in the same order: a `ChatEndpoint` or a `local_writer`."""

MIN_WORDS, MAX_WORDS = 40, 60
"""Length of the transcripts that the paper asks questions about."""

MIN_TOKEN_F1 = 0.5
"""Two answers that share so many of their words are taken for the same."""

QUESTION_PROMPT = Template(
    """Please ask a question about the input and then answer the question based on the input. The output format should \
be in json and contains question and the response.
Example:
input: ah yeah good day and welcome to this instructional video on how to ah wash your car um with a baby . basically \
, you just ask them to do it . you know they love this kind of stuff this bubbles and a brush and .
output: {"question": What is the video about?, "answer": the video is about how to wash your car um with a baby.}
input: it is the gibraltar strait where you lost control and then you dived down ... one of those cases where you let \
the wings go in the clouds but you lose orientation completely
output: {"question": Where did the incident occur?, "answer": Gibraltar Strait.}
BEGIN:
input: ${transcript}
output:"""
)
"""Makes a question and its answer from a transcript. The words are listing 1's; its line breaks are lost in print."""

ACCEPTABILITY_PROMPT = Template(
    """Given a question, related input, and answer, please help determine whether the answer is acceptable.
The output choose from acceptable or unacceptable.
Question: ${question}
Input: ${transcript}
Answer: ${answer}
Your output:"""
)
"""Judges an answer. Source: listing 2."""

_LABELLED = re.compile(
    r'"?question"?\s*:\s*(?P<question>.+?)\s*,?\s*(?:,|\n|(?="))\s*"?(?:answer|response)"?\s*:\s*(?P<answer>[^\n]+)',
    re.IGNORECASE | re.DOTALL,
)
_NEXT_EXAMPLE = re.compile(r"\n\s*(?:input|BEGIN)\s*:")
_BOTH_CHOICES = re.compile(r"\bacceptable or unacceptable\b", re.IGNORECASE)
_VERDICT = re.compile(r"\b(?P<no>un|in|not\s+(?:an?\s+)?)?acceptable\b", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A question about what was said, and the answer of who wrote it."""

    question: str
    """The question, which becomes the instruction."""
    answer: str
    """The answer, from the transcript."""


@dataclass(frozen=True)
class Agreement:
    """How like two answers are, in words."""

    token_f1: float
    """Harmonic mean of the shares of words that both have, 0 to 1."""
    exact_match: bool
    """Whether all words are the same."""
    first_word: bool
    """Whether the first word is the same: for yes, no, names and numbers."""


def write_questions(writer: TextWriter, transcripts: Sequence[str]) -> list[Question | None]:
    """A question about each transcript; None where the writer's output holds none.

    Args:
        writer: Who writes.
        transcripts: What was said.
    """
    return [parse_question(t) for t in writer([QUESTION_PROMPT.substitute(transcript=t) for t in transcripts])]


def read_questions(path: Path) -> dict[str, Question]:
    """Questions by the utterance that they are about, as the stage `questions` writes them.

    Raises:
        DataError: The file is not there, or a line of it is damaged.
    """
    hint = "The stage questions writes it: voicechat train --list"
    return {line["id"]: Question(line["question"], line["answer"]) for _, line in read_lines(path, hint=hint)}


def judge_answers(
    writer: TextWriter, *, questions: Sequence[str], transcripts: Sequence[str], answers: Sequence[str]
) -> list[bool | None]:
    """Whether each answer is acceptable; None where the judge gives no verdict.

    Raises:
        ValueError: The lists differ in length.
    """
    if not len(questions) == len(transcripts) == len(answers):
        raise ValueError(
            f"`answers` must have one entry per question ({len(questions)}) and transcript ({len(transcripts)}), but "
            f"has {len(answers)} instead."
        )
    prompts = [
        ACCEPTABILITY_PROMPT.substitute(question=q, transcript=t, answer=a)
        for q, t, a in zip(questions, transcripts, answers)
    ]
    return [parse_verdict(text) for text in writer(prompts)]


def parse_question(text: str) -> Question | None:
    """The question in a writer's output: as JSON, as the near-JSON of the prompt's examples, or in labelled lines."""
    text = _NEXT_EXAMPLE.split(text)[0]
    found = _json_object(text) or _labelled(text)
    fields = {str(name).lower(): str(value).strip() for name, value in found.items()}
    question, answer = fields.get("question", ""), fields.get("answer") or fields.get("response", "")
    return Question(question, answer) if question and answer else None


def parse_verdict(text: str) -> bool | None:
    """What a judge's output says first: True for acceptable, False for unacceptable, None for neither."""
    match = _VERDICT.search(_BOTH_CHOICES.sub("", text))
    return None if match is None else match["no"] is None


def accept_rate_statistics(verdicts: Sequence[bool | None]) -> UtteranceStatistics:
    """Share of acceptable answers in percent. Where the judge gave no verdict, the answer counts as unacceptable.

    Source: paper table 3.
    """
    counted = accuracy_statistics([verdict is True for verdict in verdicts], metric="accept_rate")
    return UtteranceStatistics(
        counted.metric,
        counted.counts,
        counted.corpus_score,
        details={"without_verdict": sum(v is None for v in verdicts)},
    )


def agreement(reference: str, hypothesis: str, *, normalizer_name: str = ENGLISH) -> Agreement:
    """How like an answer is to the reference's, without a judge.

    Args:
        reference: The right answer.
        hypothesis: The answer to measure.
        normalizer_name: Applied to both first.
    """
    normalize = normalizer(normalizer_name)
    right, given = normalize(reference).split(), normalize(hypothesis).split()
    if not right or not given:
        return Agreement(float(right == given), right == given, right == given)
    shared = (Counter(right) & Counter(given)).total()
    return Agreement(2 * shared / (len(right) + len(given)), right == given, right[0] == given[0])


def agrees(reference: str, hypothesis: str, *, normalizer_name: str = ENGLISH) -> bool:
    """Whether two answers are taken for the same: their first word is, or token F1 is at least 0.5."""
    found = agreement(reference, hypothesis, normalizer_name=normalizer_name)
    return found.first_word or found.token_f1 >= MIN_TOKEN_F1


def read_keys(path: Path) -> dict[str, tuple[str, ...]]:
    """Accepted answers by question, from lines of `question` and `accepted`.

    Raises:
        DataError: The file is not there, or a line of it is damaged.
    """
    return {line["question"]: tuple(line["accepted"]) for _, line in read_lines(path)}


def is_accepted(answer: str, accepted: Sequence[str]) -> bool:
    """Whether one of the accepted answers is in an answer, as whole words, capitals or not."""
    return any(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", answer, re.IGNORECASE) for each in accepted)


def agreement_statistics(
    agreements: Sequence[Agreement], *, normalizer_name: str = ENGLISH
) -> list[UtteranceStatistics]:
    """Token F1, exact match and first word over a test set, all in percent."""
    details = {"normalizer": normalizer_name}
    values = {
        "token F1": [100 * a.token_f1 for a in agreements],
        "exact match": [100.0 * a.exact_match for a in agreements],
        "first word": [100.0 * a.first_word for a in agreements],
    }
    return [mean_statistics(v, metric=name, details=details) for name, v in values.items()]


def local_writer(model: BlspModel, *, max_new_tokens: int = 128, batch_size: int = 8) -> TextWriter:
    """A model's own LLM as the writer; a small one writes few usable questions.

    Args:
        model: The model.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts answered together.
    """
    from blsp.conversation import Turn
    from blsp.decoding.batched import generate_texts
    from blsp.decoding.sampling import GenerationConfig

    config = GenerationConfig(max_new_tokens=max_new_tokens)

    def write(prompts: Sequence[str]) -> list[str]:
        return generate_texts(model, [[Turn("user", p)] for p in prompts], config, batch_size=batch_size)

    return write


def _json_object(text: str) -> Mapping[Any, Any]:
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1], strict=False)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _labelled(text: str) -> Mapping[str, str]:
    match = _LABELLED.search(text)
    if match is None:
        return {}
    return {name: value.strip().rstrip("}`").strip().strip('",').strip() for name, value in match.groupdict().items()}
