"""Measure what each trick of the training step is worth, on the model tiny.

Needs: the model tiny; real speech in VOICECHAT_DATA/speech/librispeech, else sounds are generated.
Run: python -m recipes.measure_training_speed [--utterances 8] [--repeats 3] [--out speed.json]
Makes: a table of samples a second and peak memory: a plain re-creation of the paper's step, each trick added to those
before it, and each taken away from all of them. All see the same utterances through an adapter of the paper's shape,
untrained; it fails if a loss differs by more than 1e-4. So that losses can be the same, the plain step pads the speech
to 30 s but masks the silence.
Takes: about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from blsp.audio.log_mel import log_mel
from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.conversation import Turn
from blsp.data.speech.feature_shard import FeatureShard, FeatureWriter
from blsp.instructions import REPEAT
from blsp.json_lines import read_lines
from blsp.modeling.batch import (
    IGNORED_LABEL,
    HiddenStates,
    PromptBatch,
    PromptExample,
    PromptRow,
    collate,
    shared_prefix,
)
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, SpeechSegment, TokenSegment
from blsp.models.model_config import ModelConfig

PADDED_MEL_FRAMES, PADDED_FRAMES = 3000, 1500
"""30 s of log-mel features, and of encoder states."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Tricks:
    """What is done to save time; nothing of it: the plain step."""

    unpadded: bool = False
    """Speech is as long as it is, in the encoder and in the LLM's prompt."""
    labels_only: bool = False
    """Scores are computed only where an answer's token is predicted."""
    shared_prefix: bool = False
    """Keys and values of the constant prompt before the speech are computed once."""
    buckets: bool = False
    """Utterances of like length share a micro-batch."""
    cached: bool = False
    """Encoder states are read from the disk."""


TRICKS = [field.name for field in fields(Tricks)]
ALL = Tricks(*[True] * len(TRICKS))


@dataclass(frozen=True)
class Utterances:
    """The global batch."""

    waveforms: Sequence[np.ndarray]
    rows: Sequence[PromptRow]
    states: FeatureShard

    @property
    def n_answer_tokens(self) -> int:
        """Tokens that the loss is a mean over."""
        return sum(len(row.response_ids) for row in self.rows)


@dataclass(frozen=True)
class Measurement:
    """One line of the table."""

    name: str
    samples_per_second: float
    peak_megabytes: float | None
    loss: float


def read_speech(count: int) -> tuple[list[np.ndarray], list[str]]:
    """Waveforms, float32 (N,) at 16 kHz, and transcripts: real speech of up to 16 s where there is some."""
    folder = Path(os.environ.get("VOICECHAT_DATA") or "../shared") / "speech" / "librispeech"
    if not (folder / "manifest.jsonl").is_file():
        rng = np.random.default_rng(0)
        seconds = rng.uniform(2, 16, count)
        noises = [0.1 * rng.standard_normal(round(s * SAMPLING_RATE)).astype(np.float32) for s in seconds]
        return noises, ["the quick brown fox jumps over the lazy dog " * round(s / 3 + 1) for s in seconds]
    entries = [line for _, line in read_lines(folder / "manifest.jsonl")]
    entries = [entry for entry in entries if entry["duration"] <= 16][:count]
    return [load_audio(folder / entry["audio"]) for entry in entries], [entry["text"].lower() for entry in entries]


def prepare(model: BlspModel, count: int, folder: Path) -> Utterances:
    """The global batch, its encoder states written to a folder; from now on the model trains its adapter."""
    assert model.encoder is not None
    assert model.adapter is not None
    model.requires_grad_(False)
    model.adapter.requires_grad_(True)
    waveforms, texts = read_speech(count)
    examples = [PromptExample([Turn("user", REPEAT, CACHED_SPEECH)], text) for text in texts]
    writer = FeatureWriter(folder / "states", model.encoder.width)
    for waveform in waveforms:
        states, lengths = encoder_states(model, [waveform], Tricks(unpadded=True))
        writer.write(states[0, : int(lengths[0])], {})
    writer.close()
    shard = FeatureShard(folder / "states", model.encoder.width)
    return Utterances(waveforms, collate(model.template, examples).rows, shard)


@torch.no_grad()
def encoder_states(model: BlspModel, waveforms: Sequence[np.ndarray], tricks: Tricks) -> tuple[Tensor, Tensor]:
    """Encoder states of waveforms, float (B, L, D), and their lengths; L is that of 30 s unless unpadded."""
    assert model.encoder is not None
    features = [log_mel(waveform, model.encoder.n_mels).T for waveform in waveforms]
    lengths = torch.tensor([len(row) for row in features])
    batch = pad_sequence(features, batch_first=True).transpose(1, 2)  # (B, n_mels, T)
    if not tricks.unpadded:
        batch = F.pad(batch, (0, PADDED_MEL_FRAMES - batch.size(2)))
    states, lengths = model.encoder(batch.to(model.device), lengths.to(model.device))
    return states, lengths


def step(model: BlspModel, utterances: Utterances, tricks: Tricks, size: int) -> float:
    """Forward and backward pass of the global batch in micro-batches of `size`; the mean loss."""
    assert model.adapter is not None
    model.adapter.zero_grad()
    order = list(range(len(utterances.rows)))
    if tricks.buckets:
        order.sort(key=lambda i: len(utterances.waveforms[i]))
    total = 0.0
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        rows = tuple(utterances.rows[i] for i in chosen)
        if tricks.cached:
            cached = [utterances.states.hidden_states(i) for i in chosen]
            lengths = torch.tensor([len(row) for row in cached])
            states = pad_sequence(cached, batch_first=True)
            states = states if tricks.unpadded else F.pad(states, (0, 0, 0, PADDED_FRAMES - states.size(1)))
        else:
            states, lengths = encoder_states(model, [utterances.waveforms[i] for i in chosen], tricks)
        loss = loss_sum(model, rows, HiddenStates(states, lengths), tricks) / utterances.n_answer_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def loss_sum(model: BlspModel, rows: tuple[PromptRow, ...], states: HiddenStates, tricks: Tricks) -> Tensor:
    """Cross entropy summed over the answers' tokens."""
    if tricks.unpadded and tricks.labels_only and tricks.shared_prefix:  # as the library trains
        output = model(PromptBatch(rows, states))
        summed: Tensor = output.loss * len(output.labels)
        return summed
    embeds, lengths = model.embed_hidden_states(states.values.to(model.device), states.lengths.to(model.device))
    prompt, mask, labels = spread_out(model, rows, embeds, lengths, padded=not tricks.unpadded)
    prefix = shared_prefix(rows) if tricks.shared_prefix else ()
    targets = labels[:, 1:]
    columns = (targets != IGNORED_LABEL).any(dim=0).nonzero()[:, 0]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model.run_llm(
        prompt[:, len(prefix) :],
        model.prefixes.read(prefix, len(rows)),
        attention_mask=mask,
        position_ids=positions[:, len(prefix) :],
        logits_to_keep=columns - len(prefix) if tricks.labels_only else 0,
    ).logits
    targets = targets[:, columns] if tricks.labels_only else targets[:, len(prefix) :]
    logits = logits if tricks.labels_only else logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")


def spread_out(
    model: BlspModel, rows: Sequence[PromptRow], embeds: Tensor, lengths: Tensor, *, padded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with answers, float (B, P, E), their mask, bool (B, P), and labels, int64 (B, P).

    Padded speech takes the same room in each row, as in the paper's release: what is not speech in it is masked.
    """
    all_embeds: list[Tensor] = []
    all_masks: list[Tensor] = []
    all_labels: list[Tensor] = []
    for row, speech, length in zip(rows, embeds, lengths.tolist()):
        speech = speech if padded else speech[:length]
        parts, masks, labels = [], [], []
        for segment in (*row.segments, TokenSegment(row.response_ids)):
            part = speech if isinstance(segment, SpeechSegment) else model.embed_tokens(segment.ids)
            parts.append(part)
            masks.append(torch.arange(len(part)) < (length if isinstance(segment, SpeechSegment) else len(part)))
            labels.append(torch.full((len(part),), IGNORED_LABEL))
        labels[-1] = torch.tensor(row.response_ids)
        for found, pieces in ((all_embeds, parts), (all_masks, masks), (all_labels, labels)):
            found.append(torch.cat(pieces))
    return (
        pad_sequence(all_embeds, batch_first=True),
        pad_sequence(all_masks, batch_first=True).to(model.device),
        pad_sequence(all_labels, batch_first=True, padding_value=IGNORED_LABEL).to(model.device),
    )


def variants() -> Iterator[tuple[str, Tricks]]:
    """Names and tricks of the table's lines."""
    tricks = Tricks()
    yield "plain: 30 s, encoder each step, all scores", tricks
    for name in TRICKS:
        tricks = replace(tricks, **{name: True})
        yield f"+ {name}", tricks
    for name in TRICKS:
        yield f"all without {name}", replace(ALL, **{name: False})


def measure(model: BlspModel, utterances: Utterances, args: argparse.Namespace) -> list[Measurement]:
    """The table."""
    found = []
    for name, tricks in variants():
        step(model, utterances, tricks, args.micro_batch)  # warm-up
        reset_peak(model.device)
        times = []
        for _ in range(args.repeats):
            started = time.perf_counter()
            loss = step(model, utterances, tricks, args.micro_batch)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        speed = len(utterances.rows) / statistics.median(times)
        found.append(Measurement(name, speed, peak_megabytes(model.device), loss))
        line = found[-1]
        print(f"{name:45} {speed:8.2f} samples/s {line.peak_megabytes or 0:8.0f} MB  loss {loss:.6f}", flush=True)
    return found


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of memory anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier steps left
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass


def peak_megabytes(device: torch.device) -> float | None:
    """Peak of memory since `reset_peak`; of the whole process on a CPU, and None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM")), None)


def report(found: Sequence[Measurement]) -> str:
    """The table in Markdown; a trick pays where taking it away from all makes the step slower."""
    plain = found[0].samples_per_second
    lines = ["| step | samples/s | speed-up | peak MB | loss |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {m.name} | {m.samples_per_second:.2f} | {m.samples_per_second / plain:.2f} | "
        f"{'' if m.peak_megabytes is None else round(m.peak_megabytes)} | {m.loss:.6f} |"
        for m in found
    ]
    return "\n".join(lines)


def check_losses(found: Sequence[Measurement]) -> None:
    """Make sure that all steps compute the same.

    Raises:
        SystemExit: A loss differs.
    """
    for measurement in found:
        if abs(measurement.loss / found[0].loss - 1) > TOLERANCE:
            raise SystemExit(f"The loss of {measurement.name!r} is {measurement.loss}, but must be {found[0].loss}.")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=8, help="samples of a step")
    parser.add_argument("--micro-batch", type=int, default=4, help="samples that go through the model at once")
    parser.add_argument("--repeats", type=int, default=3, help="steps timed for each line, besides one for warm-up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model = ModelConfig(adapter="new", device=args.device, dtype="float32").load()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(model, prepare(model, args.utterances, Path(folder)), args)
    print(report(found))
    if args.out is not None:
        args.out.write_text(json.dumps([asdict(m) for m in found], indent=2) + "\n", encoding="utf-8")
    check_losses(found)


if __name__ == "__main__":
    main()
