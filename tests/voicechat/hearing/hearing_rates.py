"""Measure what `voicechat transcribe` decides: is this speech? Real speech without text, and noise with some.

Needs: the recordings in VOICECHAT_DATA.
Run: PYTHONPATH=. python tests/voicechat/hearing/hearing_rates.py --out runs/hearing.jsonl --clips 1500
Makes: a line for each case: a clip as it is, or its first 1, 1.5, 2 or 3 seconds. Lines that are there are not made
again, so that a run that was interrupted goes on; without --clips all clips are read (30 h of audio with the cuts).
Prints: false rejections of each corpus and cut, by the detector (`unheard`) and by the letters (`misfits`), text on
noise, what other values of `min_letter_fit` would give, and what the second look adds at other least scores.

Whether a cut holds speech is judged by energy alone, which neither detector nor model has a say in: 300 ms or more in
a row, gaps of 60 ms not counted as such, within 20 dB of the clip's loud frames (their 95th percentile). Cases below
that are left out: of `loud_ms` they may have as much, in clicks and pieces of noise, as the reports before counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blsp.audio.endpointing import segment_stream
from blsp.audio.read import load_audio
from blsp.audio.second_look import DoubtfulSpeech
from blsp.audio.speech_detector import DEFAULT_MODE, FRAME_MS, SpeechDetector
from blsp.audio.speech_gate import FRAME_SAMPLES, needed_letter_fit, speech_evidence
from blsp.audio.waveform import SAMPLING_RATE
from blsp.decoding.search.ctc_beam import SearchConfig, Words, search_words
from blsp.decoding.second_hearing import LEAST_SCORE, SecondHearing, hear_again
from blsp.decoding.speech_reader import speech_reader
from blsp.decoding.word_finder import WordFinder
from blsp.modeling.model import BlspModel

CUTS = (1.0, 1.5, 2.0, 3.0)
"""Seconds of a clip's beginning; 0 stands for the whole clip."""
MIN_SPEECH_MS = 300
RANGE_DB = 20.0
MAX_GAP_FRAMES = 2
FITS = (-1.6, -2.0, -2.4, -3.0, -3.5, -4.0)
SCORES = (2.0, 2.5, 3.0, 4.0)

Case = dict[str, Any]


def cases(corpora: Path, n_clips: int | None, seed: int) -> Iterator[tuple[Case, np.ndarray]]:
    """Noise first, then clips of speech in random order, each whole and cut, with what they are about."""
    folders = sorted(path.parent for path in corpora.glob("*/manifest.jsonl"))
    clips = [(folder, json.loads(line)["audio"]) for folder in folders for line in _lines(folder / "manifest.jsonl")]
    noise = [clip for clip in clips if clip[0].name.startswith("noise")]
    speech = [clip for clip in clips if not clip[0].name.startswith("noise")]
    random.Random(seed).shuffle(speech)
    for folder, audio in (*noise, *speech[:n_clips]):
        waveform = load_audio(folder / audio)
        is_noise = folder.name.startswith("noise")
        levels = frame_levels(waveform)
        for cut in (0.0,) if is_noise else (0.0, *(c for c in CUTS if c * SAMPLING_RATE < len(waveform))):
            part = waveform[: round(cut * SAMPLING_RATE)] if cut else waveform
            loud = [] if is_noise else loud_frames(levels, len(part) // FRAME_SAMPLES)
            facts = {"speech_ms": longest_run(loud) * FRAME_MS, "loud_ms": len(loud) * FRAME_MS}
            yield {"corpus": folder.name, "audio": audio, "cut": cut, **facts}, part


def frame_levels(waveform: np.ndarray) -> np.ndarray:
    """Level of each frame in dB, float (N // 480,)."""
    n_frames = len(waveform) // FRAME_SAMPLES
    frames = waveform[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
    return np.asarray(10 * np.log10(np.square(frames).mean(axis=1) + 1e-10))


def loud_frames(levels: np.ndarray, n_frames: int) -> list[int]:
    """Which of the first frames of a clip are about as loud as its loud ones."""
    return [int(i) for i in np.nonzero(levels[:n_frames] > np.percentile(levels, 95) - RANGE_DB)[0]]


def longest_run(frames: Sequence[int]) -> int:
    """Frames from the first to the last of those in a row, with gaps of at most `MAX_GAP_FRAMES`."""
    longest = start = 0
    for i, frame in enumerate(frames):
        if i and frame - frames[i - 1] > MAX_GAP_FRAMES + 1:
            start = i
        longest = max(longest, frame - frames[start] + 1)
    return longest


@torch.inference_mode()
def hear(model: BlspModel, waveform: np.ndarray, mode: int, min_fit: float) -> Case:
    """What is found in a recording, at the second look only where nothing is at the first."""
    doubtful = DoubtfulSpeech(SpeechDetector(mode))
    case: Case = {"utterances": [_read(model, x.waveform) for x in segment_stream([waveform], doubtful)]}
    if not is_heard_at_once(case, min_fit):
        hearings = [hear_again(speech_reader(model), stretch.waveform) for stretch in doubtful.stretches(len(waveform))]
        case["again"] = [asdict(hearing) for hearing in hearings if hearing is not None]
    return case


def _read(model: BlspModel, utterance: np.ndarray) -> Case:
    """An utterance's words, and how well the letters spell them."""
    adapter = model.adapter
    assert adapter is not None
    assert adapter.ctc is not None
    config = SearchConfig()
    frames, lengths, letters = adapter.forward_with_letters(*speech_reader(model).encode_speech([utterance])[:2])
    finder = WordFinder(model)
    (reading,) = finder.readings(finder.token_scores(frames), lengths, letters, config.tokens_per_frame)
    evidence = speech_evidence(utterance)
    search = search_words(reading, finder.spellings, config, is_speech=True)
    best = search.finished[0] if search.finished else Words([], 0.0, 0)
    return {
        "seconds": round(len(utterance) / SAMPLING_RATE, 2),
        "evidence": round(evidence, 1),
        "fit": round(search.letter_fit, 3),
        "letters": best.n_letters,
        "text": model.tokenizer.decode(best.ids),
    }


def is_heard_at_once(case: Case, min_fit: float) -> bool:
    """Whether text comes out without a second look."""
    return any(u["letters"] and u["fit"] >= needed_letter_fit(u["evidence"], min_fit) for u in case["utterances"])


def is_heard(case: Case, min_fit: float, least_score: float = LEAST_SCORE) -> bool:
    """Whether text comes out."""
    again = (SecondHearing(**hearing) for hearing in case.get("again", ()))
    return is_heard_at_once(case, min_fit) or any(o.is_speech and o.score >= least_score for o in again)


def report(results: Iterable[Case], min_fit: float) -> None:
    """Print rates by corpus and cut."""
    noise: list[Case] = []
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in results:
        if case["corpus"].startswith("noise"):
            noise.append(case)
        elif case["speech_ms"] >= MIN_SPEECH_MS:
            for name in ("all", case["corpus"], f"first {case['cut']:g} s" if case["cut"] else "whole"):
                groups[name].append(case)
    for name, members in sorted(groups.items()):
        unheard = sum(not case["utterances"] for case in members)
        lost = sum(not is_heard(case, min_fit) for case in members)
        rate = f"1 in {len(members) / lost:.0f}" if lost else "none"
        print(f"{name}: {lost} of {len(members)} lost ({rate}): {unheard} unheard, {lost - unheard} misfits")
    n_begun = sum(bool(case["utterances"]) for case in noise)
    print(f"noise: {n_begun} of {len(noise)} begin an utterance, {sum(is_heard(c, min_fit) for c in noise)} give text")
    for fit in FITS:
        lost = sum(not is_heard_at_once(case, fit) for case in groups["all"])
        print(f"at once, {fit}: {lost} lost, {sum(is_heard_at_once(case, fit) for case in noise)} noises with text")
    for score in SCORES:
        lost = sum(not is_heard(case, min_fit, score) for case in groups["all"])
        print(f"second look, {score}: {lost} lost, {sum(is_heard(c, min_fit, score) for c in noise)} noises with text")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, help="so many clips of speech instead of all")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--vad-mode", type=int, default=DEFAULT_MODE)
    parser.add_argument("--min-letter-fit", type=float, help="instead of the adapter's own")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    from blsp.models.load import load_model
    from blsp.models.spec import resolve

    model = load_model(resolve(args.model), device="cpu", packed=True)
    assert model.adapter is not None
    fit = args.min_letter_fit if args.min_letter_fit is not None else model.adapter.config.min_letter_fit
    fit = -float("inf") if fit is None else fit
    results = [json.loads(line) for line in _lines(args.out)]
    known = {(case["corpus"], case["audio"], case["cut"]) for case in results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a", encoding="utf-8") as file:
        for case, waveform in cases(args.data / "speech", args.clips, args.seed):
            if (case["corpus"], case["audio"], case["cut"]) not in known:
                case |= hear(model, waveform, args.vad_mode, fit)
                results.append(case)
                print(json.dumps(case), file=file, flush=True)
    report(results, fit)


if __name__ == "__main__":
    main()
