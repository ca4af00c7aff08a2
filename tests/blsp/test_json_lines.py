"""JSON lines are written and read in one way, also after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.errors import DataError
from blsp.json_lines import cut_off_half_line, json_line, parse_object, read_lines, whole_lines

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates and line separators too


@settings(max_examples=50, derandomize=True)
@given(st.dictionaries(TEXTS, TEXTS | st.integers() | st.none() | st.lists(TEXTS, max_size=3), max_size=4))
def test_every_object_is_one_line_of_utf8_and_comes_back(values: dict[str, object]) -> None:
    data = json_line(values).encode()
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert parse_object(data) == values


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "must hold a JSON object, but holds list instead"),
        ('{"a"', "is not JSON: Expecting ':' delimiter"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
        (b"\xff", "is not JSON: 'utf-8' codec"),
    ],
)
def test_a_line_that_holds_no_object_is_refused(line: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_object(line)


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with pytest.raises(DataError, match=r"^Cannot read .*lines.jsonl: No such file or directory.$") as missing:
        list(read_lines(path, hint="Write it."))
    assert missing.value.hint == "Write it."
    path.write_text('{"id": 1}\n{"id"\n')
    with pytest.raises(DataError, match=r"lines.jsonl:2 is not JSON: .*: b'\{\"id\""):
        list(read_lines(path))
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"lines.jsonl:1 must hold a JSON object"):
        list(read_lines(path))


def test_a_half_line_counts_only_where_none_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": 1}\n{"id": 2')
    assert list(read_lines(path, is_being_written=True)) == [(1, {"id": 1})]
    with pytest.raises(DataError, match=r"lines.jsonl:2 is not JSON"):
        list(read_lines(path))
    path.write_text('{"id": 1}\n{"id": 2}')
    assert [number for number, _ in read_lines(path)] == [1, 2]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("whole", [b"", b"a\n", b"a\n" * 40_000])
def test_a_half_line_is_cut_off(tmp_path: Path, whole: bytes, size: int) -> None:
    data = whole + b"x" * size
    assert whole_lines(data) == whole
    path = tmp_path / "lines"
    path.write_bytes(data)
    with path.open("rb+") as file:
        cut_off_half_line(file)
        file.write(b"next\n")
    assert path.read_bytes() == whole + b"next\n"
