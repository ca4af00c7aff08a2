"""Stage `conversations`: several spoken turns in a row, answered by an LLM."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.answers.conversations import QUESTIONS, ConversationPlan, read_conversations, write_conversations
from blsp.progress import Watcher
from blsp.stages.planning.decoding_cost import decoding_cost
from blsp.stages.prepare.writing import (
    ASSUMED_PROMPT_TOKENS,
    WritingConfig,
    backend_facts,
    check_pattern,
    count_faults,
    write_missing,
)
from blsp.stages.stage import Plan, Stage, StageConfig

FILE_NAME = "conversations.jsonl"


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig(WritingConfig):
    """What the conversations are made of, and who answers."""

    n_conversations: int
    """How many; fewer where there are not as many utterances, since each ends one conversation at most."""
    turns: tuple[int, ...] = (2, 3)
    """Lengths, each equally often."""
    typed: float = 0.2
    """Share of the turns before the last that are typed, not spoken."""
    only: str | None = QUESTIONS
    """Take only utterances in whose transcript this regular expression is found, whatever the case; by default what
    asks for an answer, null takes all."""

    def __post_init__(self) -> None:
        self.check(n_conversations=self.n_conversations, turns=min(self.turns, default=0))
        if not 0 <= self.typed <= 1:
            raise ValueError(f"`typed` must be at least 0 and at most 1, but is {self.typed}.")
        check_pattern(self.only)

    def conversation_plan(self) -> ConversationPlan:
        """What the library is to write."""
        return ConversationPlan(
            self.n_conversations,
            self.turns,
            self.typed,
            self.only,
            self.case,
            self.spelling,
            self.system,
            self.seed,
        )


class ConversationsStage(Stage[ConversationsConfig]):
    """Makes conversations of utterances, and lets an LLM answer them turn by turn."""

    name: ClassVar[str] = "conversations"
    about: ClassVar[str] = "An LLM answers several utterances in a row, so that later turns are understood too."
    needs: ClassVar[str] = "a manifest with transcripts, an LLM"
    makes: ClassVar[str] = f"{FILE_NAME}: id, turns (utterance, spoken, text, answer, finished)"
    config_class: ClassVar[type[StageConfig]] = ConversationsConfig

    def inputs(self, config: ConversationsConfig) -> list[Path]:
        """The manifest, and the model where it is a folder."""
        return config.inputs

    def outputs(self, config: ConversationsConfig) -> list[Path]:
        """The conversations."""
        return [config.out / FILE_NAME]

    def plan(self, config: ConversationsConfig) -> Plan:
        """Conversations, prompts and tokens."""
        backend, problems = backend_facts(config)
        prompts = config.n_conversations * sum(config.turns) // len(config.turns)
        facts: dict[str, str | int | float] = {"conversations": config.n_conversations, "prompts": prompts}
        facts |= {"tokens at most": prompts * config.max_new_tokens, "backend": backend}
        cost = decoding_cost(
            config.model,
            prompts,
            prompt_tokens=ASSUMED_PROMPT_TOKENS + (max(config.turns) - 1) * config.max_new_tokens / 2,
            new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
        )
        return Plan(facts, cost.seconds, cost.memory_bytes, cost.notes, problems)

    def run(self, config: ConversationsConfig, watcher: Watcher) -> dict[str, Any]:
        """Write what is missing."""
        path = config.out / FILE_NAME
        is_main = write_missing(
            write_conversations, path, config.conversation_plan(), config, watcher, what="conversation"
        )
        return _result(path, config, watcher) if is_main else {}


def _result(path: Path, config: ConversationsConfig, watcher: Watcher) -> dict[str, Any]:
    lines = answers = n_usable = 0
    faults = Counter[str]()
    for line in read_conversations(path):
        found = [config.filter.fault(turn.answer, finished=turn.finished) for turn in line.turns]
        faults.update(reason for reason in found if reason is not None)
        lines, answers, n_usable = lines + 1, answers + len(found), n_usable + (not any(found))
    return {"conversations": lines, "usable": n_usable, **count_faults(faults, answers, watcher)}
