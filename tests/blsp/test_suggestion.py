"""The known name that was meant."""

from __future__ import annotations

from blsp.suggestion import did_you_mean, nearest_name

KNOWN = ["alignment", "translation"]


def test_the_nearest_name_is_found() -> None:
    assert nearest_name("alinement", KNOWN) == "alignment"
    assert nearest_name("alinement", KNOWN, cutoff=0.99) is None
    assert nearest_name("ctc", KNOWN) is None
    assert nearest_name("", []) is None
    assert did_you_mean("transaltion", KNOWN, prefix="stage.") == "Did you mean 'stage.translation'?"
    assert did_you_mean("ctc", KNOWN) is None
