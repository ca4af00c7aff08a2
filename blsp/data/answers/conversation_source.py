"""Conversations of several spoken turns, as the alignment learns them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from blsp.data.answers.answer_lines import AnswerLines, KeysOfLines, UtteranceKeys, places_of
from blsp.data.answers.conversations import ConversationLine, read_conversations
from blsp.data.sample import Exchange, Sample
from blsp.errors import DataError
from blsp.instructions import Instruction

if TYPE_CHECKING:
    from blsp.data.answers.answer_sources import SourceConfig
    from blsp.data.manifest import Manifest


class ConversationSource:
    """Conversations in a conversations.jsonl; each belongs to its last utterance.

    Left out are those of which an answer is (`SourceConfig.filter`), or an utterance is not trained on.
    """

    def __init__(self, manifest: Manifest, config: SourceConfig, path: Path) -> None:
        self.config = config
        self._manifest = manifest
        self.keys = KeysOfLines(config.manifest, config.matched_by)
        self._lines = AnswerLines(path)
        self._spoken: list[list[int]] = []  # keys of the utterances of each line that may be used
        self._numbers: list[int] = []
        for number, line in enumerate(read_conversations(path)):
            if all(config.filter.fault(turn.answer, finished=turn.finished) is None for turn in line.turns):
                self._spoken.append([self.keys.of(turn.utterance) for turn in line.turns if turn.spoken])
                self._numbers.append(number)
        self._known = np.zeros(0, np.int64)
        self.available = np.zeros(0, np.bool_)
        self.earlier_seconds: npt.NDArray[np.float32] | float = 0.0

    def find(self, utterances: UtteranceKeys) -> None:
        """Find the conversations of all utterances, and how long they are."""
        self._known = utterances.of(self.keys)
        places = [self._places(keys) for keys in self._spoken]
        whole = [i for i, found in enumerate(places) if (found >= 0).all()]
        last = np.asarray([self._spoken[i][-1] for i in whole], np.int64)
        self._lines.index(last, np.asarray([self._numbers[i] for i in whole], np.int64))
        self.available = self._lines.find(self._known)
        earlier = np.zeros(len(self._known), np.float32)
        for i in reversed(whole):  # of several about one utterance, the first is read
            earlier[places[i][-1]] = utterances.seconds[places[i][:-1]].sum()
        self.earlier_seconds = earlier

    def read(self, number: int) -> Sample:
        """The sample of an utterance."""
        values = self._lines.read(number)
        if values is None:
            raise DataError(f"{self._manifest[number].id} of {self._manifest.path} has no usable conversation.")
        line = ConversationLine.from_fields(values, str(self._lines.path))
        self.keys.check(line.turns[-1].utterance, self._manifest, number, self._lines.path)
        numbers = iter(self._places([self.keys.of(turn.utterance) for turn in line.turns if turn.spoken]).tolist())
        earlier = tuple(
            Exchange(turn.answer, next(numbers)) if turn.spoken else Exchange(turn.answer, text=turn.text)
            for turn in line.turns[:-1]
        )
        last = line.turns[-1]
        return Sample(
            number,
            self.config.behaviour,
            Instruction("", system=line.system),
            last.answer,
            last.finished,
            earlier,
            self.config.learns_earlier,
            last.top_tokens,
        )

    def _places(self, keys: Sequence[int]) -> npt.NDArray[np.int64]:
        return places_of(np.asarray(keys, np.int64), self._known)
