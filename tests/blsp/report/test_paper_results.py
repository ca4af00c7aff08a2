"""The paper's numbers, where they check each other."""

from __future__ import annotations

import itertools
from statistics import mean

import pytest

from blsp.report.paper_results import (
    COVOST2_TARGETS,
    INSTRUCTION_PAIRS,
    INSTRUCTIONS,
    MUSTC_TARGETS,
    PAPER_TABLES,
    instruction_pair_task,
    modality_task,
)

TABLES = {table.number: table for table in PAPER_TABLES}


def test_every_row_has_a_number_or_a_gap_for_each_column() -> None:
    for table in PAPER_TABLES:
        columns = [(column.task, column.metric) for column in table.columns]
        assert len(set(columns)) == len(columns)
        assert {len(values) for _, values in table.rows} == {len(columns)}, table.number


@pytest.mark.parametrize(
    ("overview", "detailed", "targets"), [("st/mustc", "10", MUSTC_TARGETS), ("st/covost2", "9", COVOST2_TARGETS)]
)
def test_the_overview_holds_the_means_of_the_directions(overview: str, detailed: str, targets: tuple[str, ...]) -> None:
    for system, values in TABLES[detailed].rows:
        assert len(values) == len(targets)
        printed = TABLES["2"].value(system, overview, "BLEU")
        assert printed is not None
        if (system, overview) == ("BLSP+RP", "st/mustc"):  # the note of table 2 says so
            assert (printed, round(mean(v for v in values if v is not None), 1)) == (14.9, 14.3)
        else:
            assert printed == pytest.approx(mean(v for v in values if v is not None), abs=0.051)


def test_tasks_are_named_as_the_tables_name_them() -> None:
    value = TABLES["2"].value
    assert value("CTC+LLM", "asr/tedlium3", "WER") == 20.7
    assert value("CTC+LLM", "asr-alone/tedlium3", "WER") == 8.4
    assert value("BLSP", "asr-alone/tedlium3", "WER") is None
    assert TABLES["7 and 12"].value("BLSP", instruction_pair_task("SA-ST"), "cosine") == 0.278
    assert TABLES["8 and 13"].value("ASR pretraining", modality_task("SR"), "cosine") == 0.328
    assert TABLES["4"].value("BLSP", "st-tuned/mustc-en-ru", "COMET") == 77.3
    assert tuple("-".join(pair) for pair in itertools.combinations(INSTRUCTIONS, 2)) == INSTRUCTION_PAIRS
