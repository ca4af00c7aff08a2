"""What has one place in the code is done nowhere else: each row names a mechanism, its mark in the text, its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MECHANISMS = {
    "variables of launched processes": (r"\"(RANK|WORLD_SIZE|LOCAL_RANK)\"", {"blsp/environment.py"}),
    "files brought onto the disk": (r"os\.fsync|os\.umask|mkstemp", {"blsp/storage.py"}),
    "files that appear whole": (r"\btemp\w*\.replace\(|unfinished\.replace\(|hardlink_to", {"blsp/storage.py"}),
    "names that were meant": (r"import difflib|get_close_matches", {"blsp/suggestion.py"}),
    "resamples of utterances": (r"\.multinomial\(n,|quantile\(", {"blsp/evaluation/significance.py"}),
    "JSON lines written": (r"json\.dumps\((?!.*indent).*\) ?\+ ?b?\"\\n\"", {"voicechat/sessions/session_log.py"}),
    "JSON lines read": (r"json\.loads\((line|raw)\)", {"blsp/json_lines.py"}),
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_has_one_place(name: str) -> None:
    mark, places = MECHANISMS[name]
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("blsp", "voicechat", "recipes")
        for path in (ROOT / package).rglob("*.py")
        if re.search(mark, path.read_text(encoding="utf-8"))
    }
    assert found == places
