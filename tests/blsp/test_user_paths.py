from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.errors import ConfigError, ModelNotFoundError
from blsp.models import embedded
from blsp.models.sources.hub import fetch_model
from blsp.user_paths import expand_user, home_folder, names_file, names_folder, names_something
from voicechat import paths

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry in the password file, and no HOME."""

    def unknown(_: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "VOICECHAT_CACHE", "VOICECHAT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert home_folder() == expand_user("~") == Path("/home/me")
    assert expand_user("~/a b.wav") == Path("/home/me/a b.wav")
    assert expand_user(Path("a/~")) == Path("a/~")


def test_no_home_folder_is_one_line(no_home: None) -> None:
    message = f"The home folder is not known: HOME is not set, and there is no account of user id {os.getuid()}."
    for find in (
        home_folder,
        lambda: expand_user("~/a"),
        embedded.cache_folder,
        paths.config_path,
        paths.state_folder,
        lambda: fetch_model("~/model"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            find()
        assert caught.value.hint == "Name a folder that you may write in, for example: export HOME=/tmp/home"


def test_no_home_folder_is_needed_where_others_are_named(no_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/x")
    assert embedded.cache_folder() == paths.config_path().parent == paths.state_folder() == Path("/x/voicechat")
    assert expand_user("a/b") == Path("a/b")


def test_a_user_that_does_not_exist_leaves_the_path_as_it_is() -> None:
    assert expand_user("~nosuchuser/a.wav") == Path("~nosuchuser/a.wav")
    with pytest.raises(ModelNotFoundError):
        fetch_model("~nosuchuser/model")


@settings(max_examples=50, derandomize=True)
@given(st.text() | st.text(min_size=200) | st.sampled_from(["x" * 256, "a/" * 2100, "\0", "~" * 300, "\ud800"]))
def test_any_text_may_be_asked_about(text: str) -> None:
    for ask in (names_file, names_folder, names_something):
        assert ask(text) in (False, True)
    expand_user(text.replace("~", "", 1) if text.startswith("~/") else text)


def test_all_paths_of_users_go_this_way() -> None:
    """Nowhere else is a home folder looked up: pathlib raises RuntimeError where there is none."""
    found = {
        f"{path.relative_to(ROOT)}:{number}"
        for package in ("blsp", "voicechat", "recipes")
        for path in (ROOT / package).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"expanduser|Path\.home\(|getpass|getpwuid", line) and path.name != "user_paths.py"
    }
    assert not found
