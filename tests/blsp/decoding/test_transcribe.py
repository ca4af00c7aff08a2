"""Silence is no speech; what else transcription does is tested with joint decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from blsp.decoding.transcribe import transcribe

MakeSpeech = Callable[..., np.ndarray]


def test_nothing_is_made_up_about_silence(deaf_model: Any, make_speech: MakeSpeech) -> None:
    assert transcribe(deaf_model, make_speech(1.0)) == ""
