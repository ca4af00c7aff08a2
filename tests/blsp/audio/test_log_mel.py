from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from blsp.audio.log_mel import extract_features, log_mel

MakeSpeech = Callable[..., np.ndarray]


@pytest.mark.parametrize("n_mels", [80, 128])
def test_log_mel_equals_that_of_transformers(make_speech: MakeSpeech, n_mels: int) -> None:
    waveform = make_speech(1.234)
    theirs = WhisperFeatureExtractor(feature_size=n_mels)(
        waveform, sampling_rate=16_000, padding=False, return_tensors="pt"
    ).input_features[0]
    torch.testing.assert_close(log_mel(waveform, n_mels), theirs, rtol=0, atol=1e-5)


def test_padded_features_equal_those_of_transformers(make_speech: MakeSpeech) -> None:
    waveform = make_speech(2.0)
    theirs = WhisperFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt").input_features
    features, lengths = extract_features([waveform], padded=True)
    assert lengths.tolist() == [200]
    torch.testing.assert_close(features, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [400, 559, 560, 16_000, 16_159, 16_160])
def test_lengths_are_shapes_and_the_formula(make_speech: MakeSpeech, n: int) -> None:
    features, lengths = extract_features([make_speech(2.0)[:n]])
    assert features.shape == (1, 80, n // 160)
    assert lengths.tolist() == [n // 160]


def test_a_row_does_not_depend_on_its_neighbours(make_speech: MakeSpeech) -> None:
    short, long = make_speech(0.5), make_speech(1.0, seed=1)
    alone, _ = extract_features([short])
    batch, lengths = extract_features([long, short])
    assert lengths.tolist() == [100, 50]
    torch.testing.assert_close(batch[1, :, :50], alone[0], rtol=0, atol=0)
    assert not batch[1, :, 50:].any()


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 800), np.float32), "`waveform` must have one dimension, but is of shape (2, 800) instead."),
        (np.zeros(399, np.float32), "`waveform` must hold at least 400 samples, but holds 399 instead."),
    ],
)
def test_what_has_no_spectrum_is_refused(waveform: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  the whole text is compared
        log_mel(waveform)
    assert str(error.value) == message


def test_no_waveforms_are_refused() -> None:
    with pytest.raises(ValueError, match="`waveforms` must hold at least one waveform"):
        extract_features([])
