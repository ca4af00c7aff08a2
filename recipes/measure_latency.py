"""Time from the end of an utterance to the first token of its answer, over the turns of one conversation.

Run: python -m recipes.measure_latency [--model embedded] [--speech FILE ...] [--turns 6] [--repeats 3]
Prints one line a turn: encoding, reading and the first token, then the last turn's ratio to the first. Nothing is
done in advance: in `voicechat talk` most of this happens during the silence that ends the utterance.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.conversation import Turn
from blsp.decoding.conversation import Conversation
from blsp.decoding.sampling import GenerationConfig
from blsp.modeling.model import BlspModel
from blsp.models.load import load_model
from blsp.models.spec import resolve

CLIPS = Path(__file__).parent.parent / "tests" / "assets"


def measure(model: BlspModel, files: list[Path], turns: int, max_new_tokens: int) -> list[float]:
    """Milliseconds to the first piece of each answer in a fresh conversation, utterances of 3 s each."""
    conversation = Conversation(model)
    config = GenerationConfig(max_new_tokens=max_new_tokens)
    times = []
    for number in range(turns):
        waveform = load_audio(files[number % len(files)])
        speech = torch.nn.functional.pad(torch.from_numpy(waveform), (0, 3 * SAMPLING_RATE))[: 3 * SAMPLING_RATE]
        started = time.perf_counter()
        pieces = conversation.reply(Turn("user", speech=speech.numpy()), config)
        next(pieces, "")
        times.append(1000 * (time.perf_counter() - started))
        for _ in pieces:  # the rest of the answer stays in the conversation
            pass
    return times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--speech", type=Path, nargs="+", default=sorted(CLIPS.glob("*.flac")))
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=40, help="length of each answer")
    args = parser.parse_args()
    model = load_model(resolve(args.model), packed=True)
    measure(model, args.speech, 1, 2)  # the first run pays for set-up
    runs = [measure(model, args.speech, args.turns, args.max_new_tokens) for _ in range(args.repeats)]
    medians = [statistics.median(turn) for turn in zip(*runs)]
    print(f"{model.device.type}, {torch.get_num_threads()} threads, median of {args.repeats} conversations")
    for number, milliseconds in enumerate(medians, start=1):
        print(f"turn {number}: {milliseconds:.0f} ms")
    print(f"turn {args.turns} / turn 1: {medians[-1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
