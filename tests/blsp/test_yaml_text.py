from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.config import read_config_file
from blsp.errors import ConfigError
from blsp.shown import shown
from blsp.yaml_text import MAX_BYTES, Values, read_text, read_value, read_values

QUICK = settings(max_examples=150, derandomize=True, deadline=None, database=None)
PIECES = [
    *"abc01:-?[]{}&*!|>'\"#%@`,~<=._\n\t \\",
    "a: ",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!!set",
    "---\n",
    "...\n",
]
PIECES += ["0x_", "2024-13-45", "12:30", ".nan", "1e999", "null", "yes", "\x00", "é", "\ud800", "\ufeff", "${A}"]


def test_every_name_knows_its_line() -> None:
    values = read_values("a: 1\nb:\n  c: {d: x,\n    e: y}\n", "f")
    assert values == {"a": 1, "b": {"c": {"d": "x", "e": "y"}}}
    assert (values.places, values["b"].places) == ({"a": "f, line 1", "b": "f, line 2"}, {"c": "f, line 3"})
    assert values["b"]["c"].places == {"d": "f, line 3", "e": "f, line 4"}
    for same in (values.copy(), Values(values), pickle.loads(pickle.dumps(values))):
        assert (same, same.places) == (values, values.places)
    assert values.without("a") == {"b": values["b"]}


def test_what_only_looks_like_something_is_a_text() -> None:
    values = read_values("a: 2024-01-31\nb: 0x_\nc: <<\nd: =\ntrue: 0b_\n1: !!int x", "f")
    assert values == {"a": "2024-01-31", "b": "0x_", "c": "<<", "d": "=", "true": "0b_", "1": "x"}


def test_aliases_of_aliases_are_not_spelled_out() -> None:
    lines = [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12)]
    with pytest.raises(ConfigError, match=r"f, line 6: this stands for more than 200000 values\."):
        read_values("\n".join(["a0: &a0 [1, 2]", *lines]), "f")


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    for data, message in (
        (b"a: 1\nb: \xe9\n", f"{path}, line 2: the text is not UTF-8."),
        ("a: 1".encode("utf-16"), f"{path}, line 1: the text is not UTF-8."),
        (b"#" * (MAX_BYTES + 1), f"{path} is larger than 4 MiB, so it is not a config."),
        (b"a: 1\n\x00", f"{path}, line 2: the character '\\x00' is not allowed."),
    ):
        path.write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            read_config_file(path)
        assert str(caught.value) == message
    with pytest.raises(ConfigError, match=f"Cannot read {tmp_path}: Is a directory."):
        read_text(tmp_path)
    with pytest.raises(ConfigError, match=r"Cannot read 'a\\x00b': embedded null byte."):
        read_text(Path("a\0b"))
    path.write_bytes(b"\xef\xbb\xbfa: 1")  # as Windows' editors begin a text
    assert read_config_file(path) == {"a": 1}


def test_long_values_are_shown_short() -> None:
    assert len(shown("x" * 10_000)) <= 100
    assert shown(int("f" * 5000, 16)) == "a number of thousands of digits"
    assert shown("a\nb") == "'a\\nb'"


@pytest.mark.slow
@QUICK
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=40))
def test_any_text_is_values_or_one_line(text: str) -> None:
    try:
        read_value(text, "f")
        read_values(text, "f")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        assert str(error).startswith("f")  # noqa: PT017
