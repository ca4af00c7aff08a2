"""Teach the embedded adapter to read: CTC against the LLM's own token embeddings, no LLM in the loop.

Needs: cached features (recipes.prepare_embedded_data), the embedded LLM, VOICECHAT_DATA for the spelling of words.
Run: python -m recipes.train_embedded_ctc --features runs/features --llm LLM_FOLDER --out runs/ctc --steps 5000
Makes: out/adapter.pt (the running average of the weights) every 250 steps with its development WER in out/log.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blsp.data.feature_cache import FeatureShard
from blsp.data.transcripts import Truecaser
from blsp.modeling.adapter import Adapter, AdapterConfig, ctc_greedy_tokens
from blsp.training.objectives import ctc_loss, mask_time

ENCODER_DIM = 512
Example = tuple[FeatureShard, int, list[int]]


def truecaser(data: Path) -> Truecaser:
    """Spelling of words as in the prose and the requests of the text corpora."""
    names = ("libritts", "ljspeech", "sgd_user")
    return Truecaser(
        line for name in names for line in (data / "text" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    )


def load_examples(features: Path, pattern: str, spell: Truecaser, tokenizer: Any) -> list[Example]:
    """Utterances of all shards that match, with the token ids of their transcripts."""
    shards = [FeatureShard(path, ENCODER_DIM) for path in sorted(features.glob(f"{pattern}.jsonl"))]
    texts = [spell(entry["text"]) for shard in shards for entry in shard.entries]
    ids = iter(tokenizer(texts, add_special_tokens=False).input_ids) if texts else iter(())
    examples = [(shard, i, next(ids)) for shard in shards for i in range(len(shard))]
    return [example for example in examples if example[2]]


def length_batches(examples: list[Example], max_frames: int, generator: torch.Generator) -> Iterator[list[Example]]:
    """Shuffled batches of utterances of like length, at most `max_frames` encoder frames each, padding included."""
    order = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), 1024):
        pool = sorted(order[start : start + 1024], key=lambda i: _frames(examples[i]))
        batch: list[int] = []
        for i in pool:
            if batch and _frames(examples[i]) * (len(batch) + 1) > max_frames:
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield [examples[i] for i in batches[index]]


def collate(batch: list[Example]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """hidden_states, float32 (B, L, D); lengths, int64 (B,); target token ids."""
    rows = [shard.hidden_states(i) for shard, i, _ in batch]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, [ids for _, _, ids in batch]


@torch.inference_mode()
def read(adapter: Adapter, examples: list[Example], token_embeds: Tensor, tokenizer: Any) -> list[str]:
    """What the adapter's CTC head reads in each utterance."""
    assert adapter.ctc is not None
    texts = [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: _frames(examples[i]))
    for start in range(0, len(order), 16):
        indices = order[start : start + 16]
        hidden_states, lengths, _ = collate([examples[i] for i in indices])
        speech_embeds, lengths = adapter(hidden_states, lengths)
        tokens = ctc_greedy_tokens(adapter.ctc.logits(speech_embeds, token_embeds), lengths)
        for i, text in zip(indices, tokenizer.batch_decode(tokens)):
            texts[i] = text
    return texts


def evaluate(
    adapter: Adapter, dev: list[Example], spell: Truecaser, token_embeds: Tensor, tokenizer: Any
) -> dict[str, float]:
    """WER of the recogniser on each development corpus, in lower case without punctuation."""
    from blsp.evaluation.metrics import wer

    result = {}
    texts = read(adapter, dev, token_embeds, tokenizer)
    for kind in sorted({shard.entries[i]["kind"] for shard, i, _ in dev}):
        chosen = [n for n, (shard, i, _) in enumerate(dev) if shard.entries[i]["kind"] == kind]
        references = [spell(dev[n][0].entries[dev[n][1]]["text"]).lower() for n in chosen]
        result[kind] = wer(references=references, hypotheses=[texts[n].lower() for n in chosen])
    return result


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up, also after a restart; constant; then cosine decay to 2 % over the last part."""
    peak: float = args.lr
    since_start = step - int(args.first_step)
    if since_start < args.warmup:
        return peak * (since_start + 1) / int(args.warmup)
    progress = max(0.0, (step / args.steps - args.decay_from) / (1 - args.decay_from))
    share: float = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * share


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--llm", required=True, help="folder of the LLM")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="adapter.pt to start from")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--first-step", type=int, default=0, help="where in the schedule to begin")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--decay-from", type=float, default=0.4)
    parser.add_argument("--max-frames", type=int, default=3200, help="encoder frames a batch (50 a second)")
    parser.add_argument("--dropout", type=float, default=0.1, help="on the encoder's states")
    parser.add_argument("--max-masks", type=int, default=2, help="stretches of up to 0.3 s masked in an utterance")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    token_embeds = AutoModelForCausalLM.from_pretrained(args.llm).get_input_embeddings().weight.detach().clone()
    spell = truecaser(args.data)
    common = common_tokens(args.data, spell, tokenizer)
    adapter = Adapter(AdapterConfig(ENCODER_DIM, token_embeds.size(1), readout="ctc_expected"))
    if args.init:
        adapter.load_state_dict(torch.load(args.init, weights_only=True))
    train(adapter, args, token_embeds, common, spell, tokenizer)


def common_tokens(data: Path, spell: Truecaser, tokenizer: Any) -> Tensor:
    """Ids of tokens that occur at least twice in the sentences to be read, int64 (W,)."""
    counts: Counter[int] = Counter()
    for path in sorted((data / "text").glob("*.txt")):
        lines = [spell(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for ids in tokenizer([line for line in lines if line], add_special_tokens=False).input_ids:
            counts.update(ids)
    return torch.tensor(sorted(token for token, n in counts.items() if n > 1))


def train(
    adapter: Adapter,
    args: argparse.Namespace,
    token_embeds: Tensor,
    common: Tensor,
    spell: Truecaser,
    tokenizer: Any,
) -> None:
    """The loop; shards that grow meanwhile are read anew at each epoch."""
    dev = load_examples(args.features, "dev-*", spell, tokenizer)[::8]  # enough to watch; all are scored at the end
    average = copy.deepcopy(adapter).eval()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    generator = torch.Generator().manual_seed(args.first_step)
    step, epoch, started, seconds = args.first_step, 0, time.perf_counter(), 0.0
    recent: list[float] = []
    while step < args.steps:
        epoch += 1
        examples = load_examples(args.features, "real-*", spell, tokenizer)
        examples += load_examples(args.features, "mixed-*", spell, tokenizer)
        hours = sum(_frames(e) for e in examples) / 50 / 3600
        print(f"epoch {epoch}: {len(examples)} utterances, {hours:.1f} h", flush=True)
        for batch in length_batches(examples, args.max_frames, generator):
            hidden_states, lengths, targets = collate(batch)
            hidden_states = mask_time(hidden_states, lengths, max_masks=args.max_masks, max_frames=15)
            dropped = torch.nn.functional.dropout(hidden_states, args.dropout)
            speech_embeds, out_lengths = adapter(dropped, lengths)
            negatives = torch.randint(token_embeds.size(0), (1000,), generator=generator)
            present = torch.tensor([token for row in targets for token in row])
            vocabulary = torch.unique(torch.cat([common, negatives, present]))
            loss = ctc_loss(adapter, speech_embeds, out_lengths, targets, token_embeds, vocabulary)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()
            step += 1
            decay = min(0.998, step / (step + 50))
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), adapter.parameters()):
                    slow.lerp_(fast, 1 - decay)
            recent.append(float(loss.detach()))
            seconds += float(lengths.sum()) / 50
            if step % 50 == 0:
                speed = seconds / (time.perf_counter() - started)
                print(f"step {step} loss {sum(recent[-50:]) / 50:.3f} {speed:.0f}x real time", flush=True)
            if step % 250 == 0 or step == args.steps:
                report = evaluate(average, dev, spell, token_embeds, tokenizer)
                torch.save(average.state_dict(), args.out / "adapter.partial")
                (args.out / "adapter.partial").replace(args.out / "adapter.pt")
                torch.save(adapter.state_dict(), args.out / "last.pt")
                entry = {"step": step, "loss": sum(recent[-250:]) / len(recent[-250:]), "wer": report, "hours": hours}
                entry["seconds"] = round(time.perf_counter() - started)
                with (args.out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(entry) + "\n")
                print(json.dumps(entry), flush=True)
            if step == args.steps:
                break


def _frames(example: Example) -> int:
    shard, i, _ = example
    return int(shard.entries[i]["frames"])


if __name__ == "__main__":
    main()
