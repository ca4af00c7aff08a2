"""Time from the end of a spoken question to the first token of its answer, after what was said before was read.

Nothing is done while somebody speaks: in `voicechat talk` part of this passes in the silence that ends an utterance.

    python -m recipes.measure_first_token runs/embedded/questions --limit 15 --beside "python rival.py"

The other program reads one path a line, and answers each with a line of JSON that has `ms`; the two take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.conversation import Turn
from blsp.data.manifest import Manifest
from blsp.decoding.conversation import Conversation
from blsp.decoding.sampling import GenerationConfig
from blsp.evaluation.significance import ResamplingConfig, percentile_interval, resample_counts
from blsp.modeling.model import BlspModel
from blsp.models.load import load_model
from blsp.models.spec import resolve

SILENCE = Turn("user", speech=np.zeros(SAMPLING_RATE, np.float32))


class FirstToken:
    """Times the first piece of an answer in a new conversation.

    Args:
        model: The model.
    """

    def __init__(self, model: BlspModel) -> None:
        self._conversation = Conversation(model)

    def __call__(self, path: Path) -> float:
        """Milliseconds."""
        waveform = load_audio(path)
        self._conversation.clear()
        self._conversation.prefill(SILENCE)  # as `talk` does when somebody begins to speak
        start = time.perf_counter()
        answer = self._conversation.reply(Turn("user", speech=waveform), GenerationConfig(max_new_tokens=3))
        next(answer, "")
        milliseconds = 1000 * (time.perf_counter() - start)
        answer.close()
        return milliseconds

    @property
    def heard(self) -> str | None:
        """The words that were found."""
        return self._conversation.heard


class OtherProgram:
    """Another program that is asked for the same.

    Args:
        command: Its command line.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, path: Path) -> float:
        """Milliseconds that it says it takes for a recording.

        Raises:
            SystemExit: It ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(path, file=self._process.stdin, flush=True)
        for answer in self._process.stdout:
            if answer.startswith("{"):
                return float(json.loads(answer)["ms"])
        raise SystemExit(f"{self._command} ended before it answered.")

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median, by bootstrap."""
    drawn = np.concatenate(list(resample_counts(len(ratios), ResamplingConfig())))  # (R, N)
    medians = np.array([np.median(np.repeat(ratios, counts.astype(int))) for counts in drawn])
    low, high = percentile_interval(medians)
    return float(low), float(high)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a manifest")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--limit", type=int, default=15, help="recordings, taken evenly")
    parser.add_argument("--beside", metavar="COMMAND", help="another program to take turns with")
    args = parser.parse_args()
    manifest = Manifest(args.folder / "manifest.jsonl")
    step = max(1, len(manifest) // args.limit)
    paths = [args.folder / manifest[number].audio for number in range(0, len(manifest), step)][: args.limit]
    ours = FirstToken(load_model(resolve(args.model), packed=True))
    other = OtherProgram(args.beside) if args.beside else None
    ours(paths[0])  # the first one pays for set-up
    times, ratios = [], []
    if other is not None:
        other(paths[0])
    for path in paths:
        times.append(ours(path))
        line = f"{times[-1]:5.0f} ms  {ours.heard}"
        if other is not None:
            theirs = other(path)
            ratios.append(times[-1] / theirs)
            line += f"  beside {theirs:.0f} ms"
        print(line, flush=True)
    print(f"median {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms, {len(times)} recordings")
    if other is not None:
        other.close()
        low, high = interval(ratios)
        print(f"of the other's time: {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
