"""Times to the first token, beside another program's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.measure_first_token import FirstToken, OtherProgram, interval

CLIP = Path(__file__).parents[1] / "assets" / "capital_of_france.flac"


def test_an_answer_is_timed_and_forgotten(tiny_model: Any) -> None:
    first_token = FirstToken(tiny_model)
    assert first_token(CLIP) > 0
    assert first_token(CLIP) > 0


def test_another_program_is_asked_for_each_recording(tmp_path: Path) -> None:
    program = tmp_path / "other.py"
    program.write_text(
        "import sys\nprint('loading')\nfor line in sys.stdin:\n"
        "    print('{\"ms\": %d}' % len(line.strip()), flush=True)\n    if 'last' in line: break\n"
    )
    ask = OtherProgram(f"{sys.executable} {program}")
    assert [ask(Path("a.wav")), ask(Path("last.wav"))] == [5.0, 8.0]
    with pytest.raises(SystemExit, match="ended before it answered"):
        ask(Path("b.wav"))
    ask.close()


def test_the_interval_holds_the_median() -> None:
    low, high = interval([0.4, 0.5, 0.6, 0.5, 0.7])
    assert 0.4 <= low <= 0.5 <= high <= 0.7
