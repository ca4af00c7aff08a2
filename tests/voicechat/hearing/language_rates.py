"""Measure whether recordings are taken for another language: English ones by mistake, and foreign ones rightly.

Needs: the recordings in VOICECHAT_DATA.
Run: PYTHONPATH=. python tests/voicechat/hearing/language_rates.py --out runs/languages.jsonl --clips 500
Makes: a line for each case: a clip as it is, and its beginning of 1, 1.5, 2 or 3 seconds, drawn at random. Lines that
are there are not made again, so that a run that was interrupted goes on.
Prints: how many cases of each corpus and length were taken for a language that the adapter does not know, and how many
of them were judged a second time, with 30 s of sound, which takes a while.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.decoding.speech_reader import speech_reader
from blsp.decoding.spoken_language import LanguageScores, SpokenLanguage
from blsp.modeling.model import BlspModel

CUTS = (1.0, 1.5, 2.0, 3.0)
"""Seconds of a clip's beginning; 0 stands for the whole clip."""
LENGTHS = ((3.0, "3 s and more"), (2.0, "2 s"), (1.5, "1.5 s"), (1.0, "1 s"), (0.0, "less"))

Case = dict[str, Any]


class Counted:
    """Counts how often utterances are encoded with 30 s."""

    def __init__(self, spoken: SpokenLanguage) -> None:
        self._spoken = spoken
        self.n_padded = 0

    @property
    def is_known(self) -> bool:
        return self._spoken.is_known

    def scores(self, waveform: np.ndarray, *, padded: bool) -> LanguageScores | None:
        self.n_padded += padded
        return self._spoken.scores(waveform, padded=padded)


def cases(corpora: Path, n_clips: int | None, seed: int) -> Iterator[tuple[Case, np.ndarray]]:
    """Clips of each corpus in random order, each whole and cut once, with what they are about."""
    chance = random.Random(seed)
    for manifest in sorted(corpora.glob("*/manifest.jsonl")):
        lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        chance.shuffle(lines)
        for line in lines[:n_clips]:
            waveform = load_audio(manifest.parent / line["audio"])
            cuts = [cut for cut in CUTS if cut * SAMPLING_RATE < len(waveform)]
            for cut in (0.0, *([chance.choice(cuts)] if cuts else [])):
                part = waveform[: round(cut * SAMPLING_RATE)] if cut else waveform
                seconds = round(len(part) / SAMPLING_RATE, 2)
                yield {"corpus": manifest.parent.name, "audio": line["audio"], "cut": cut, "seconds": seconds}, part


def judge(model: BlspModel, waveform: np.ndarray) -> Case:
    """What a recording is taken for."""
    found = speech_reader(model).language_judge()
    assert found is not None
    counted = found.spoken = Counted(found.spoken)  # type: ignore[assignment, arg-type]
    found.hear_all(waveform)
    return {"foreign": found.foreign, "padded": counted.n_padded}


def report(results: Iterable[Case]) -> None:
    """Print rates by corpus and length."""
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in results:
        length = next(name for seconds, name in LENGTHS if case["seconds"] >= seconds)
        groups[case["corpus"], length].append(case)
    for (corpus, length), members in sorted(groups.items()):
        n_foreign, n_padded = sum(bool(c["foreign"]) for c in members), sum(bool(c["padded"]) for c in members)
        print(f"{corpus}, {length}: {n_foreign} of {len(members)} foreign, {n_padded} looked at closely")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, help="so many clips of each corpus instead of all")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    from blsp.models.load import load_model
    from blsp.models.spec import resolve

    model = load_model(resolve(args.model), device="cpu", dtype="float32")
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    results = [json.loads(line) for line in lines]
    known = {(case["corpus"], case["audio"], case["cut"]) for case in results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a", encoding="utf-8") as file:
        for case, waveform in cases(args.data / "speech", args.clips, args.seed):
            if (case["corpus"], case["audio"], case["cut"]) not in known:
                case |= judge(model, waveform)
                results.append(case)
                print(json.dumps(case), file=file, flush=True)
    report(results)


if __name__ == "__main__":
    main()
