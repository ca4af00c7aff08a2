from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from blsp.audio.log_mel import extract_features
from blsp.audio.write import save_audio
from blsp.data.manifest import Manifest, Utterance, load_waveform, write_manifest
from blsp.data.speech.augmentation import AugmentationConfig
from blsp.data.speech.encoding import encode, fingerprint, open_cache
from blsp.data.speech.speech_batch import SpeechBatch, SpeechConfig, SpeechLoader, augmentation_version
from blsp.decoding.speech_reader import speech_reader
from blsp.errors import DataError
from blsp.modeling.batch import HiddenStates
from blsp.modeling.encoder import SpeechEncoder
from blsp.modeling.model import BlspModel

SECONDS = (0.7, 1.3, 0.4, 2.0, 1.0)
ALL = [0, 1, 2, 3, 4]


@pytest.fixture
def manifest(tmp_path: Path, make_speech: Callable[..., np.ndarray]) -> Manifest:
    utterances = []
    for i, seconds in enumerate(SECONDS):
        save_audio(tmp_path / f"{i}.wav", make_speech(seconds, seed=i))
        utterances.append(Utterance(f"u{i}", f"{i}.wav", seconds))
    write_manifest(tmp_path / "manifest.jsonl", utterances)
    return Manifest(tmp_path / "manifest.jsonl")


@pytest.fixture(params=[False, True], ids=["unpadded", "padded"])
def encoder(request: pytest.FixtureRequest, tiny_encoder: SpeechEncoder) -> SpeechEncoder:
    return SpeechEncoder(tiny_encoder.whisper, padded=request.param)


@pytest.fixture
def cached(tmp_path: Path) -> SpeechConfig:
    return SpeechConfig(cache_folder=tmp_path / "cache", cache_gigabytes=0.1)


def directly(manifest: Manifest, encoder: SpeechEncoder) -> HiddenStates:
    """The same without any of the code under test."""
    waveforms = [load_waveform(utterance, manifest.root) for utterance in manifest]
    features, lengths = extract_features(waveforms, encoder.n_mels, padded=encoder.padded)
    values, out_lengths = encoder(features, lengths)
    return HiddenStates(values[:, : int(out_lengths.max())], out_lengths)


def keys(manifest: Manifest, config: SpeechConfig, encoder: SpeechEncoder, epoch: int = 0, seed: int = 0) -> set[bytes]:
    loader = SpeechLoader(manifest, config, encoder, cache=open_cache(config, encoder), seed=seed)
    return set(loader.load(ALL, epoch).keys)


@pytest.mark.slow
def test_without_a_cache_the_states_are_those_of_the_encoder(manifest: Manifest, encoder: SpeechEncoder) -> None:
    batch = SpeechLoader(manifest, SpeechConfig(), encoder).load(ALL, epoch=0)
    assert (batch.kept, batch.keys, batch.cached_rows, batch.feature_rows) == ((0, 1, 2, 3, 4), (), (), (0, 1, 2, 3, 4))
    states, wanted = encode(batch, encoder), directly(manifest, encoder)
    assert torch.equal(states.values, wanted.values)
    assert torch.equal(states.lengths, wanted.lengths)


@pytest.mark.slow
def test_cached_and_encoded_states_are_the_same(
    manifest: Manifest, encoder: SpeechEncoder, cached: SpeechConfig
) -> None:
    cache = open_cache(cached, encoder)
    loader = SpeechLoader(manifest, cached, encoder, cache=cache)
    first = encode(loader.load([3, 1], 0), encoder, cache)
    half = loader.load(ALL, 0)
    assert (half.cached_rows, half.feature_rows) == ((1, 3), (0, 2, 4))
    mixed = encode(half, encoder, cache)
    whole = loader.load(ALL, 0)
    assert whole.feature_rows == ()
    assert whole.features is None
    again = encode(whole, encoder, cache)
    assert torch.equal(mixed.values, again.values)
    assert torch.equal(first.values[0], again.values[3])
    wanted = directly(manifest, encoder)
    assert torch.equal(again.lengths, wanted.lengths)
    assert again.values.dtype == wanted.values.dtype
    torch.testing.assert_close(again.values, wanted.values, rtol=2**-10, atol=1e-4)  # float16 has 10 bits


def test_the_model_reads_cached_speech_like_waveforms(
    manifest: Manifest, tiny_model: BlspModel, cached: SpeechConfig
) -> None:
    encoder = tiny_model.encoder
    assert encoder is not None
    cache = open_cache(cached, encoder)
    loader = SpeechLoader(manifest, cached, encoder, cache=cache)
    for _ in range(2):
        states = encode(loader.load(ALL, 0), encoder, cache)
        embeds, lengths = tiny_model.embed_hidden_states(states.values, states.lengths)
    wanted, wanted_lengths = speech_reader(tiny_model).embed_speech([load_waveform(u, manifest.root) for u in manifest])
    assert torch.equal(lengths, wanted_lengths)
    torch.testing.assert_close(embeds, wanted, rtol=1e-2, atol=5e-3)


@pytest.mark.slow
def test_a_row_does_not_depend_on_what_else_is_loaded(
    manifest: Manifest, encoder: SpeechEncoder, cached: SpeechConfig, tmp_path: Path
) -> None:
    other = replace(cached, cache_folder=tmp_path / "other")
    found = []
    for config, numbers in [(cached, ALL), (other, [4])]:
        cache = open_cache(config, encoder)
        states = encode(SpeechLoader(manifest, config, encoder, cache=cache).load(numbers, 0), encoder, cache)
        found.append(states.values[-1, : states.lengths[-1]])
    assert torch.equal(*found)  # a killed and resumed run finds more in the cache, and must not notice


def test_keys_tell_apart_what_must_not_be_mixed_up(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig, make_speech: Callable[..., np.ndarray]
) -> None:
    plain = keys(manifest, cached, tiny_encoder)
    assert len(plain) == 5
    assert plain == keys(manifest, cached, tiny_encoder, epoch=1, seed=1)
    seen = set(plain)

    def assert_new(found: set[bytes], n: int = 5) -> None:
        assert len(found - seen) == n
        seen.update(found)

    other = copy.deepcopy(tiny_encoder)
    other.whisper.layer_norm.weight.data[0] += 1e-3
    assert_new(keys(manifest, cached, other))
    assert_new(keys(manifest, cached, SpeechEncoder(tiny_encoder.whisper, padded=True)))
    assert_new(keys(manifest, cached, copy.deepcopy(tiny_encoder).to(torch.bfloat16)))
    noise = AugmentationConfig(noise_share=1, variants=2)
    for augmentation in (noise, replace(noise, snr_db=(0, 5)), AugmentationConfig(speed=(0.9,))):
        assert_new(keys(manifest, replace(cached, augmentation=augmentation), tiny_encoder))
    noisy = replace(cached, augmentation=noise)
    assert_new(keys(manifest, noisy, tiny_encoder, epoch=1))
    assert_new(keys(manifest, noisy, tiny_encoder, seed=1))
    assert_new(keys(manifest, noisy, tiny_encoder, epoch=2), n=0)  # variant 0 again
    save_audio(manifest.root / "2.wav", make_speech(0.4, seed=99))
    assert_new(keys(manifest, cached, tiny_encoder), n=1)


def test_masks_and_dropout_do_not_change_keys(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig
) -> None:
    masked = replace(cached, augmentation=AugmentationConfig(time_masks=2, dropout=0.1))
    assert keys(manifest, masked, tiny_encoder) == keys(manifest, cached, tiny_encoder)


def test_options_that_are_off_leave_older_caches_readable() -> None:
    config = AugmentationConfig(speed=(0.9, 1.1), reverberation=0.2)
    before = "8bfc20157145bf063b91058d8377cddbbde0f21e532b319989775b835ad70e6e"  # without the options below
    assert augmentation_version(config, 3) == before
    names = ("small_room", "band_limit", "codec")
    versions = {augmentation_version(replace(config, **{name: 0.5}), 3) for name in names}  # type: ignore[arg-type]
    assert len(versions | {before}) == 4


def test_a_changed_folder_of_noises_changes_keys(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig, tmp_path: Path
) -> None:
    (tmp_path / "noise").mkdir()
    save_audio(tmp_path / "noise" / "a.wav", np.ones(8000, np.float32) / 2)
    config = replace(cached, augmentation=AugmentationConfig(noise=tmp_path / "noise", noise_share=1))
    before = keys(manifest, config, tiny_encoder)
    save_audio(tmp_path / "noise" / "b.wav", np.ones(8000, np.float32) / 2)
    assert not before & keys(manifest, config, tiny_encoder)


def test_a_copied_corpus_finds_the_states_of_the_first(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig, tmp_path: Path
) -> None:
    (manifest.root / "noise").mkdir()
    save_audio(manifest.root / "noise" / "a.wav", np.ones(8000, np.float32) / 2)
    shutil.copytree(manifest.root, tmp_path / "elsewhere", copy_function=shutil.copyfile)  # other times, too

    def keys_in(folder: Path) -> set[bytes]:
        config = replace(cached, augmentation=AugmentationConfig(noise=folder / "noise", noise_share=1))
        return keys(Manifest(folder / "manifest.jsonl"), config, tiny_encoder)

    assert len(keys_in(manifest.root)) == 5
    assert keys_in(tmp_path / "elsewhere") == keys_in(manifest.root)
    save_audio(tmp_path / "elsewhere" / "noise" / "a.wav", np.ones(8000, np.float32) / 3)
    assert not keys_in(tmp_path / "elsewhere") & keys_in(manifest.root)


def test_augmentation_is_a_function_of_seed_utterance_and_variant(
    manifest: Manifest, tiny_encoder: SpeechEncoder
) -> None:
    config = SpeechConfig(augmentation=AugmentationConfig(noise_share=1, reverberation=0.5, variants=2))

    def features(numbers: list[int], epoch: int, seed: int = 0) -> Tensor:
        batch = SpeechLoader(manifest, config, tiny_encoder, seed=seed).load(numbers, epoch)
        assert batch.features is not None
        return batch.features

    first = features([3, 1], 0)
    assert torch.equal(first, features([3, 1], 2))
    assert torch.equal(first[:1], features([3], 0))
    assert not torch.equal(first, features([3, 1], 1))
    assert not torch.equal(first, features([3, 1], 0, seed=1))
    clean = SpeechLoader(manifest, config.clean(), tiny_encoder).load([3, 1], 0)
    assert clean.features is not None
    assert not torch.equal(first, clean.features)


def test_spec_augment_hides_the_same_frames_cached_or_not(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig
) -> None:
    config = replace(cached, augmentation=AugmentationConfig(time_masks=3, mask_frames=5))
    cache = open_cache(config, tiny_encoder)
    loader = SpeechLoader(manifest, config, tiny_encoder, cache=cache)
    first = encode(loader.load(ALL, 0), tiny_encoder, cache)
    again = encode(loader.load(ALL, 0), tiny_encoder, cache)
    assert torch.equal(first.values, again.values)
    plain = encode(SpeechLoader(manifest, cached, tiny_encoder, cache=cache).load(ALL, 0), tiny_encoder, cache)
    hidden = (first.values == 0).all(dim=2) & (plain.values != 0).any(dim=2)
    assert 0 < hidden.sum(dim=1).max() <= 15
    assert torch.equal(first.values[~hidden], plain.values[~hidden])
    later = encode(loader.load(ALL, 1), tiny_encoder, cache)
    assert not torch.equal(first.values, later.values)


def test_dropout_drops_its_share(manifest: Manifest, tiny_encoder: SpeechEncoder) -> None:
    config = SpeechConfig(augmentation=AugmentationConfig(dropout=0.3))
    torch.manual_seed(0)
    states = encode(SpeechLoader(manifest, config, tiny_encoder).load([3], 0), tiny_encoder)
    assert 0.2 < float((states.values == 0).float().mean()) < 0.4


def test_what_cannot_be_read_is_left_out_and_counted(manifest: Manifest, tiny_encoder: SpeechEncoder) -> None:
    (manifest.root / "1.wav").write_bytes(b"no audio")
    (manifest.root / "3.wav").unlink()
    loader = SpeechLoader(manifest, SpeechConfig(), tiny_encoder)
    for _ in range(3):
        batch = loader.load(ALL, 0)
        assert batch.kept == (0, 2, 4)
        assert len(encode(batch, tiny_encoder).values) == 3
    assert [error.partition(": ")[0] for error in loader.errors] == [
        f"{manifest.path}, line 2",
        f"{manifest.path}, line 4",
    ]
    empty = loader.load([1, 3], 0)
    assert len(empty) == 0
    with pytest.raises(ValueError, match="`batch` must hold an utterance"):
        encode(empty, tiny_encoder)
    with pytest.raises(DataError, match="More than 0 utterances cannot be read"):
        SpeechLoader(manifest, SpeechConfig(max_error_share=0.0), tiny_encoder).load(ALL, 0)


def test_speech_longer_than_the_encoder_takes_is_left_out(tmp_path: Path, tiny_encoder: SpeechEncoder) -> None:
    save_audio(tmp_path / "long.wav", np.zeros(31 * 16_000, np.float32))
    write_manifest(
        tmp_path / "m.jsonl",
        [Utterance("long", "long.wav", 31.0), Utterance("part", "long.wav", 29.0), Utterance("tiny", "long.wav", 0.01)],
    )
    config = SpeechConfig(augmentation=AugmentationConfig(speed=(0.9,)))  # which would make 32 s of 29
    loader = SpeechLoader(Manifest(tmp_path / "m.jsonl"), config, tiny_encoder)
    batch = loader.load([0, 1, 2], 0)
    assert batch.kept == (1, 2)
    assert batch.feature_lengths is not None
    assert batch.feature_lengths.tolist() == [2900, 2]
    assert "long is 31.0 s long, but the encoder takes 30" in loader.errors[0]


def test_threads_load_what_one_alone_does(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig
) -> None:
    cache = open_cache(cached, tiny_encoder)
    loader = SpeechLoader(manifest, cached, tiny_encoder, cache=cache)
    wanted = encode(SpeechLoader(manifest, cached, tiny_encoder, cache=cache).load(ALL, 0), tiny_encoder, cache)
    with ThreadPoolExecutor(4) as pool:
        for batch in pool.map(lambda n: loader.load(ALL[n % 5 :], 0), range(40)):
            states = encode(batch, tiny_encoder, cache)
            for i, row, n in zip(range(5 - len(batch), 5), states.values, states.lengths.tolist()):
                assert torch.equal(row[:n], wanted.values[i, :n])


def test_gradients_flow_into_an_encoder_that_is_trained(
    manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig
) -> None:
    trained = copy.deepcopy(tiny_encoder).requires_grad_(True)
    batch = SpeechLoader(manifest, SpeechConfig(), trained).load([0, 1], 0)
    encode(batch, trained).values.sum().backward()
    assert trained.whisper.conv1.weight.grad is not None
    with pytest.raises(ValueError, match="`cache` must be None while the encoder is trained"):
        encode(batch, trained, open_cache(cached, trained))
    assert not encode(batch, tiny_encoder).values.requires_grad


def test_a_batch_moves_whole(manifest: Manifest, tiny_encoder: SpeechEncoder, cached: SpeechConfig) -> None:
    config = replace(cached, augmentation=AugmentationConfig(time_masks=1))
    cache = open_cache(config, tiny_encoder)
    loader = SpeechLoader(manifest, config, tiny_encoder, cache=cache)
    encode(loader.load([0], 0), tiny_encoder, cache)
    batch = loader.load([0, 1], 0).to("meta")

    def tensors(value: Any) -> list[Tensor]:
        found = vars(value).values() if isinstance(value, (SpeechBatch, HiddenStates)) else []
        return [value] if isinstance(value, Tensor) else [x for item in found for x in tensors(item)]

    assert len(tensors(batch)) == 5
    assert {x.device.type for x in tensors(batch)} == {"meta"}


def test_the_fingerprint_is_of_weights_type_and_rule(tiny_encoder: SpeechEncoder) -> None:
    same = SpeechEncoder(copy.deepcopy(tiny_encoder.whisper))
    assert fingerprint(same) == fingerprint(tiny_encoder)
    half = SpeechEncoder(copy.deepcopy(tiny_encoder.whisper).to(torch.bfloat16))
    padded = SpeechEncoder(tiny_encoder.whisper, padded=True)
    assert len({fingerprint(e) for e in (tiny_encoder, half, padded)}) == 3


def test_no_cache_is_opened_where_none_is_named(tiny_encoder: SpeechEncoder) -> None:
    assert open_cache(SpeechConfig(), tiny_encoder) is None
    with pytest.raises(ValueError, match="`cache_gigabytes` must be above 0, but is 0 instead"):
        SpeechConfig(cache_gigabytes=0)
