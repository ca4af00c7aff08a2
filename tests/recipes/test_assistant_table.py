"""The table of what evaluations of assistants found, and the keys that answers are scored by."""

from __future__ import annotations

from pathlib import Path

import pytest

from blsp.evaluation.question_answering import is_accepted, read_keys
from blsp.evaluation.scores import Report, Score
from recipes.assistant_table import table

DATA = Path(__file__).parents[2] / "recipes" / "data" / "embedded"


def test_a_row_for_each_task_metric_and_model() -> None:
    scores = (
        Score("cascade", "answers", "exact match", 50.0, 40.0, 60.0, 200),
        Score("ours", "answers", "exact match", 40.0, 30.0, 50.0, 200),
        Score("ours", "answers", "exact match, % of cascade", 80.0, 70.0, 90.0, 200),
        Score("typed", "answers", "correct by key", 90.0, None, None, 60),
        Score("ours", "answers", "token F1", 55.0, 50.0, 60.0, 200),
    )
    assert table([("tiny", Report("x", scores=scores))]).splitlines() == [
        "| model | what | n | typed | cascade | ours | ours, % of cascade |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| tiny | answers: answered exactly as when typed, % | 200 | 100 by definition | 50.0 [40.0, 60.0] |"
        " 40.0 [30.0, 50.0] | 80.0 [70.0, 90.0] |",
        "| tiny | answers: answered right, by a key, % | 60 | 90.0 | – | – | – |",
    ]


def test_every_key_is_of_a_held_out_question_and_not_given_away_by_it() -> None:
    keys = read_keys(DATA / "question_keys.jsonl")
    assert len(keys) == 60
    assert keys.keys() <= set((DATA / "held_out_questions.txt").read_text(encoding="utf-8").splitlines())
    for question, accepted in keys.items():
        assert accepted
        assert not is_accepted(question, accepted), question


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("The PACIFIC is.", ["Pacific"], True),
        ("There are 206 bones.", ["20"], False),
        ("CO2.", ["carbon dioxide", "CO2"], True),
        ("Buenos días!", ["buenos días"], True),
        ("", ["x"], False),
    ],
)
def test_answers_are_accepted_by_whole_words(answer: str, accepted: list[str], right: bool) -> None:
    assert is_accepted(answer, accepted) is right
