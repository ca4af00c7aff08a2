"""Stage `behaviours`: step 1 of the method, the answers of an LLM to transcripts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from blsp.data.answers.behaviours import Behaviour, BehaviourPlan, fault, matching, read_behaviours, write_behaviours
from blsp.data.answers.wordings import CONTINUATION, REPETITION, SHORT_ANSWER, behaviour_wordings
from blsp.instructions import Instruction, repeat_instruction
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

FILE_NAME = "behaviours.jsonl"


@dataclass(frozen=True, kw_only=True)
class BehavioursConfig(WritingConfig):
    """What is written, and by whom."""

    behaviours: dict[str, float] = field(default_factory=lambda: {CONTINUATION: 1.0})
    """Behaviours, each with the share of the utterances for which it is written (above 0, at most 1)."""
    instructions: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Instructions of further behaviours by name, or other ones for known behaviours: one wording or a list."""
    max_sentences: dict[str, int] = field(default_factory=lambda: {SHORT_ANSWER: 1})
    """After how many sentences the answers of a behaviour are cut; the others are as long as the LLM makes them."""
    copy_repetition: bool = True
    """Take the transcript itself for the repetition, as the paper does, rather than ask the LLM for it."""
    with_example: bool = False
    """Show the LLM one example of a repetition first: a small one obeys only then."""
    only: str | None = None
    """Take only utterances in whose transcript this regular expression is found, whatever the case."""
    max_utterances: int | None = None
    """Utterances taken, evenly spread over the manifest; all by default."""
    expected_samples: int | None = None
    """Utterances to plan with where the manifest is still to be made."""

    def __post_init__(self) -> None:
        known = {**behaviour_wordings(), **self.instructions}
        for name, share in self.behaviours.items():
            if name not in known:
                raise ValueError(f"`behaviours` must be among {', '.join(known)}, but has {name!r}.")
            if not 0 < share <= 1:
                raise ValueError(f"`behaviours.{name}` must be above 0 and at most 1, but is {share}.")
        for name, wordings in self.instructions.items():
            if not wordings and not isinstance(wordings, str):
                raise ValueError(f"`instructions.{name}` must hold at least one wording, but is empty.")
        limits = {f"max_sentences.{name}": limit for name, limit in self.max_sentences.items()}
        utterances = 1 if self.max_utterances is None else self.max_utterances
        self.check(behaviours=len(self.behaviours), max_utterances=utterances, **limits)
        check_pattern(self.only)

    def behaviour_plan(self) -> BehaviourPlan:
        """What the library is to write."""
        plans = tuple(self._behaviour(name, share) for name, share in self.behaviours.items())
        return BehaviourPlan(plans, self.case, self.spelling, self.max_utterances, self.only, self.seed)

    def _behaviour(self, name: str, share: float) -> Behaviour:
        wordings = self.instructions.get(name) or behaviour_wordings().get(name, ("",))
        texts = (wordings,) if isinstance(wordings, str) else wordings
        is_repetition = name == REPETITION
        examples = repeat_instruction().examples if is_repetition and self.with_example else ()
        instructions = tuple(Instruction(text, examples, self.system) for text in texts)
        copies = is_repetition and self.copy_repetition
        return Behaviour(name, instructions, share, copies, self.max_sentences.get(name))


class BehavioursStage(Stage[BehavioursConfig]):
    """Lets an LLM write what it does with transcripts."""

    name: ClassVar[str] = "behaviours"
    about: ClassVar[str] = "An LLM continues, repeats or answers transcripts: what the adapter learns to bring about."
    needs: ClassVar[str] = "a manifest with transcripts, an LLM"
    makes: ClassVar[str] = f"{FILE_NAME}: id, behaviour, instruction, response, finished"
    config_class: ClassVar[type[StageConfig]] = BehavioursConfig

    def inputs(self, config: BehavioursConfig) -> list[Path]:
        """The manifest, and the model where it is a folder."""
        return config.inputs

    def outputs(self, config: BehavioursConfig) -> list[Path]:
        """The behaviours."""
        return [config.out / FILE_NAME]

    def plan(self, config: BehavioursConfig) -> Plan:
        """Lines, prompts and tokens; counted in the manifest where it is there."""
        backend, problems = backend_facts(config)
        facts: dict[str, str | int | float] = {"behaviours": ", ".join(config.behaviours), "backend": backend}
        notes = []
        taken: Any = config.expected_samples
        if config.manifest.exists():
            from blsp.data.manifest import Manifest

            taken = matching(Manifest(config.manifest), config.only)
        else:
            how = "lines are counted once it is" if taken is None else "`expected_samples` is taken"
            notes.append(f"{config.manifest} is not there yet: {how}.")
        if taken is None:
            return Plan(facts, notes=notes, problems=problems)
        plan = config.behaviour_plan()
        items = plan.items(taken)
        asked = sum(int((items[:, 1] == i).sum()) for i, b in enumerate(plan.behaviours) if not b.copies)
        facts |= {"utterances": taken if isinstance(taken, int) else len(taken), "lines": len(items), "prompts": asked}
        facts |= {"tokens at most": asked * config.max_new_tokens}
        cost = decoding_cost(
            config.model,
            asked,
            prompt_tokens=ASSUMED_PROMPT_TOKENS,
            new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
        )
        return Plan(facts, cost.seconds, cost.memory_bytes, (*notes, *cost.notes), problems)

    def run(self, config: BehavioursConfig, watcher: Watcher) -> dict[str, Any]:
        """Write what is missing."""
        path = config.out / FILE_NAME
        is_main = write_missing(write_behaviours, path, config.behaviour_plan(), config, watcher, what="line")
        return _result(path, config, watcher) if is_main else {}


def _result(path: Path, config: BehavioursConfig, watcher: Watcher) -> dict[str, Any]:
    lines = finished = words = 0
    faults = Counter[str]()
    for line in read_behaviours(path):
        lines += 1
        faults[fault(line, config.filter) or "none"] += 1
        finished += line.finished
        words += len(line.response.split())
    shares = {"finished": finished, "words per line": words}
    counted = {"lines": lines, "usable": faults["none"], **count_faults(faults, lines, watcher)}
    return counted | {name: round(n / max(1, lines), 3) for name, n in shares.items()}
