"""What a system answers to the utterances of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blsp.conversation import Turn
from blsp.data.manifest import Utterance
from blsp.decoding.batched import generate_texts
from blsp.decoding.conversation import Conversation
from blsp.decoding.sampling import GenerationConfig
from blsp.decoding.speech_reader import speech_reader
from blsp.decoding.transcribe import transcribe, transcribe_batch
from blsp.decoding.translate import Translator
from blsp.errors import NoSpeechError, UnsupportedError
from blsp.evaluation.likelihood import calibrated_log_likelihoods
from blsp.evaluation.question_answering import Question
from blsp.evaluation.systems import System
from blsp.evaluation.tasks import NOTHING_TO_THE_POINT, TaskConfig
from blsp.evaluation.understanding import named_label
from blsp.instructions import Instruction

Group = Sequence[Utterance]
"""Utterances that are answered in one line: the turns of a conversation; of other tasks a single one."""
Questions = Mapping[str, Question]
"""Questions by the utterance that they are about."""


def reference(task: TaskConfig, group: Group, questions: Questions | None = None) -> str | None:
    """What the right answer is; None where the manifest does not say.

    For the tasks `answer` and `conversation` it is the question: the right answer is the LLM's own to its transcript;
    for `translation_as_typed` it is the transcript.
    A label that is not among those to choose from stays as it is: no choice is right.
    """
    last = group[-1]
    if task.kind == "classification":
        return last.label and (named_label(last.label, task.all_labels) or last.label)
    if task.kind == "translation":
        return last.translation
    if task.kind == "question":
        question = (questions or {}).get(last.id)
        return None if question is None else question.answer
    return "" if task.kind == "no_speech" else last.text or None


def answer_batch(
    system: System,
    task: TaskConfig,
    groups: Sequence[Group],
    waveforms: Sequence[Sequence[np.ndarray]],
    questions: Questions | None = None,
) -> list[dict[str, Any]]:
    """What a system makes of a batch of utterances.

    Args:
        system: Who answers.
        task: What it is asked.
        groups: B groups of lines of a manifest.
        waveforms: Their speech, each float32 (N,) at 16 kHz; none where the task reads transcripts.
        questions: For the task `question`, what is asked about each utterance.

    Returns:
        For each group `hypothesis`, and by the task `recognised` (text by the recogniser alone, or the words that are
        translated), `answers` (of all turns, or in all languages), `named`, `likeliest` and `calibrated` (labels).
    """
    words = _words(system, task, groups, waveforms)
    speaks = words is None
    inputs: Sequence[Sequence[Any]] = waveforms if words is None else words
    if task.kind == "conversation":
        return _converse(system, task, inputs)
    singles = [given[0] for given in inputs]
    if task.kind == "translation_as_typed":
        return _translate(system, task, singles)
    if task.repeats and speaks and task.jointly:
        results = [{"hypothesis": text} for text in transcribe_batch(system.model, singles)]
    else:
        asked = [_instruction(task, group[0], questions) for group in groups]
        prompts = [i.turns(given) if speaks else _text_turns(task, i, given) for i, given in zip(asked, singles)]
        if task.kind == "classification":
            return _classify(system, task, prompts)
        if task.alone:
            return [_reply(system, task, prompt, given) for prompt, given in zip(prompts, singles)]
        results = [{"hypothesis": answer} for answer in _generate(system, task, prompts)]
    if task.repeats and not speaks:
        results = [{**result, "recognised": text} for result, text in zip(results, singles)]
    elif task.ctc and system.recogniser is not None:
        texts = system.recogniser(singles, task.language)
        results = [{**result, "recognised": text} for result, text in zip(results, texts)]
    return results


def _words(
    system: System, task: TaskConfig, groups: Sequence[Group], waveforms: Sequence[Sequence[np.ndarray]]
) -> list[list[str]] | None:
    """What the LLM reads in the place of the speech; None where it hears."""
    if task.reads == "transcript" or system.hears == "transcript":
        return [[as_read(utterance.text) for utterance in group] for group in groups]
    if system.hears == "speech":
        return None
    assert system.recogniser is not None
    texts = iter(system.recogniser([w for group in waveforms for w in group], task.language))
    return [[next(texts) for _ in group] for group in waveforms]


def as_read(text: str) -> str:
    """A transcript without the capitals of old corpora, which an LLM takes for shouting."""
    text = text.strip()
    return text.lower() if text.isupper() else text


def _instruction(task: TaskConfig, utterance: Utterance, questions: Questions | None) -> Instruction:
    if task.kind != "question":
        return task.prompt()
    assert questions is not None
    return Instruction(questions[utterance.id].question)


def _text_turns(task: TaskConfig, instruction: Instruction, text: str) -> list[Turn]:
    """A prompt in text; none where nothing was written down, as of a cough, and all is about the words."""
    return instruction.text_turns(text) if text or not (task.repeats or task.kind == "answer") else []


def _converse(system: System, task: TaskConfig, inputs: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Conversations that go on with the system's own answers, all of them turn by turn."""
    turns: list[list[Turn]] = [[] for _ in inputs]
    answers: list[list[str]] = [[] for _ in inputs]
    for number in range(max(map(len, inputs))):
        for turn, given in zip(turns, inputs):
            user = Turn("user", given[number]) if isinstance(given[number], str) else Turn("user", "", given[number])
            turn.append(user)
        for turn, answer, text in zip(turns, answers, _generate(system, task, turns)):
            answer.append(text)
            turn.append(Turn("assistant", text))
    return [{"hypothesis": answer[-1], "answers": answer} for answer in answers]


def _translate(system: System, task: TaskConfig, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """Translations as the program makes them: of the words, where they can be had, each text alone."""
    model = system.model
    reads_words = system.hears != "speech" or speech_reader(model).finds_words
    words = [x if isinstance(x, str) else transcribe(model, x) if reads_words else "" for x in inputs]
    answers: list[list[str]] = [[] for _ in inputs]
    for language in task.targets:
        translator = Translator(model, language)
        for given, text, found in zip(inputs, words, answers):
            if reads_words:
                found.append(translator.translate(text).text if text else "")
            else:
                found.append(translator.translate(speech=given).text)
    return [{"hypothesis": found[-1], "answers": found, "recognised": text} for found, text in zip(answers, words)]


def _reply(system: System, task: TaskConfig, prompt: Sequence[Turn], given: Any) -> dict[str, Any]:
    """What the program answers in a new conversation, and the words that its LLM has read, where there are any."""
    if not prompt:
        return {"hypothesis": "", "recognised": ""}
    conversation = Conversation(system.model)
    conversation.set_turns(prompt[:-1])
    try:
        answer = "".join(conversation.reply(prompt[-1], GenerationConfig(max_new_tokens=task.max_new_tokens)))
    except NoSpeechError:
        return {"hypothesis": "", "recognised": ""}
    return {"hypothesis": answer.strip(), "recognised": given if isinstance(given, str) else conversation.heard}


def _generate(system: System, task: TaskConfig, prompts: Sequence[Sequence[Turn]]) -> list[str]:
    config = GenerationConfig(max_new_tokens=task.max_new_tokens)
    asked = [i for i, prompt in enumerate(prompts) if prompt]
    texts = generate_texts(system.model, [prompts[i] for i in asked], config, batch_size=max(1, len(asked)))
    answers = [""] * len(prompts)
    for i, text in zip(asked, texts):
        answers[i] = text.strip()
    return answers


def _classify(system: System, task: TaskConfig, prompts: Sequence[Sequence[Turn]]) -> list[dict[str, Any]]:
    labels = task.all_labels
    results: list[dict[str, Any]] = [{} for _ in prompts]
    if task.by in ("generation", "both"):
        for result, answer in zip(results, _generate(system, task, prompts)):
            result |= {"hypothesis": answer, "named": named_label(answer, labels)}
    if task.by in ("likelihood", "both"):
        without = [task.prompt().text_turns(text) for text in NOTHING_TO_THE_POINT]
        scores = calibrated_log_likelihoods(system.model, prompts, without, labels)
        for name, best in zip(("likeliest", "calibrated"), (each.argmax(dim=1).tolist() for each in scores)):
            for result, number in zip(results, best):
                result[name] = labels[number]
    return results


def no_answer(system_recognises: bool, task: TaskConfig) -> dict[str, Any]:
    """In the place of an answer, where the recording cannot be read.

    Args:
        system_recognises: Whether lines of this system say what its recogniser reads.
        task: What was asked.
    """
    empty: dict[str, Any] = {"unreadable": True}
    if task.kind == "conversation":
        return {**empty, "hypothesis": "", "answers": [""] * task.turns}
    if task.kind == "translation_as_typed":
        return {**empty, "hypothesis": "", "answers": [""] * len(task.targets), "recognised": ""}
    if task.kind != "classification":
        return {**empty, "hypothesis": "", **({"recognised": ""} if system_recognises else {})}
    if task.by in ("generation", "both"):
        empty |= {"hypothesis": "", "named": None}
    if task.by in ("likelihood", "both"):
        empty |= {"likeliest": None, "calibrated": None}
    return empty


def check_recogniser(system: System, task: TaskConfig) -> None:
    """Refuse to score a recogniser that is not there.

    Raises:
        UnsupportedError: The task asks for what a CTC head reads, and the adapter has none.
    """
    if task.ctc and system.hears == "speech" and system.recogniser is None:
        raise UnsupportedError(
            f"The task {task.title!r} asks for `ctc`, but the model's adapter has no CTC head.", hint="ctc=false"
        )
