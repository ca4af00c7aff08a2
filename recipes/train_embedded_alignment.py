"""Align the embedded adapter's behaviour through the frozen LLM, while it goes on learning to read.

Needs: an adapter that reads (recipes.train_embedded_ctc), behaviours (recipes.write_embedded_behaviours), features.
Run: python -m recipes.train_embedded_alignment --features runs/features --behaviours runs/behaviours.jsonl \
        --init runs/ctc/adapter.pt --llm LLM_FOLDER --out runs/aligned
Each step: 8 utterances through the LLM (repetition, continuation, chat), and one CTC batch with the same weights.
Makes: out/adapter.pt (the running average of the weights) and out/log.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from blsp.conversation import Turn
from blsp.data.feature_cache import FeatureShard
from blsp.data.transcripts import Truecaser
from blsp.instructions import CONTINUE, repeat_instruction
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.batch import PromptExample
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, ChatPromptTemplate
from blsp.training.objectives import ctc_loss, mask_time
from recipes.train_embedded_ctc import (
    ENCODER_DIM,
    Example,
    collate,
    common_tokens,
    evaluate,
    length_batches,
    load_examples,
    truecaser,
)

Makers = dict[str, list[tuple[FeatureShard, int, list[Turn], str]]]
"""For each behaviour: shard, index, prompt and response of its utterances."""
MIX = {"repetition": 0.5, "chat": 0.35, "continuation": 0.15}
"""Shares of the batches; each batch holds one behaviour, so that its constant prompt is read once."""


def behaviours(path: Path, features: Path, reading: list[Example], spell: Truecaser) -> Makers:
    """Responses that the LLM wrote, and repetitions of every utterance that is neither long nor empty."""
    shards: dict[str, FeatureShard] = {}
    makers: Makers = {name: [] for name in MIX}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        name = entry["shard"]
        if name not in shards:
            shards[name] = FeatureShard(features / f"{name}.jsonl", ENCODER_DIM)
        instruction = "" if entry["behaviour"] == "chat" else CONTINUE
        turns = [Turn("user", instruction, CACHED_SPEECH)]
        # Answers were cut at a number of tokens; an end in mid-sentence is nothing to learn.
        if response := re.match(r".*[.!?]", entry["response"], re.DOTALL):
            makers[entry["behaviour"]].append((shards[name], entry["index"], turns, response.group()))
    repeat = repeat_instruction().turns(CACHED_SPEECH)
    for shard, i, _ in reading:
        if shard.entries[i]["seconds"] < 12:
            makers["repetition"].append((shard, i, repeat, spell(shard.entries[i]["text"]).strip()))
    return makers


def batches(makers: Makers, size: int, generator: torch.Generator) -> Iterator[list[PromptExample]]:
    """Endless batches of one behaviour each, examples of like length together."""
    while True:
        kind = list(MIX)[int(torch.multinomial(torch.tensor(list(MIX.values())), 1, generator=generator))]
        chosen = torch.randint(len(makers[kind]), (8 * size,), generator=generator).tolist()
        pool = sorted((makers[kind][i] for i in chosen), key=lambda maker: len(maker[3]))
        start = size * int(torch.randint(8, (), generator=generator))
        yield examples(pool[start : start + size])


def examples(makers: list[tuple[FeatureShard, int, list[Turn], str]]) -> list[PromptExample]:
    """Prompts with answers, encoder states read from the cache."""
    return [
        PromptExample(turns, response, hidden_states=(shard.hidden_states(i),)) for shard, i, turns, response in makers
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--behaviours", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--llm", required=True, help="folder of the LLM")
    parser.add_argument("--init", type=Path, required=True, help="adapter.pt to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--ctc-frames", type=int, default=4800, help="encoder frames of each CTC batch")
    parser.add_argument("--ctc-weight", type=float, default=1.0)
    parser.add_argument(
        "--held-out", type=int, default=32, help="utterances of each behaviour kept for the development loss"
    )
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    llm = AutoModelForCausalLM.from_pretrained(args.llm)
    adapter = Adapter(AdapterConfig(ENCODER_DIM, llm.config.hidden_size, readout="ctc_expected"))
    adapter.load_state_dict(torch.load(args.init, weights_only=True))
    model = BlspModel(None, adapter, llm, tokenizer, ChatPromptTemplate(tokenizer))
    train(model, adapter, args, tokenizer)


def train(model: BlspModel, adapter: Adapter, args: argparse.Namespace, tokenizer: Any) -> None:
    """The loop."""
    spell = truecaser(args.data)
    token_embeds = model.llm.get_input_embeddings().weight.detach()
    common = common_tokens(args.data, spell, tokenizer)
    dev = load_examples(args.features, "dev-*", spell, tokenizer)[::8]
    reading = load_examples(args.features, "real-*", spell, tokenizer)
    reading += load_examples(args.features, "mixed-*", spell, tokenizer)
    makers = behaviours(args.behaviours, args.features, reading, spell)
    held_out = {
        kind: examples(found[:: len(found) // args.held_out][: args.held_out]) for kind, found in makers.items()
    }
    makers = {
        kind: [m for n, m in enumerate(found) if n % (len(found) // args.held_out)] for kind, found in makers.items()
    }
    generator = torch.Generator().manual_seed(0)
    ctc_batches = length_batches(reading, args.ctc_frames, generator)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    average = copy.deepcopy(adapter)
    started = time.perf_counter()

    def report(step: int) -> None:
        model.adapter = average
        losses = {kind: held_out_loss(model, found) for kind, found in held_out.items()}
        model.adapter = adapter
        entry = {
            "step": step,
            "loss": losses,
            "wer": evaluate(average, dev, spell, token_embeds, tokenizer),
            "seconds": round(time.perf_counter() - started),
        }
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)

    report(0)
    for step, batch in enumerate(batches(makers, 8, generator), start=1):
        loss = model(model.collate(batch)).loss
        hidden_states, lengths, targets = collate(next(ctc_batches))
        hidden_states = mask_time(hidden_states, lengths, max_masks=2, max_frames=15)
        speech_embeds, out_lengths = adapter(torch.nn.functional.dropout(hidden_states, 0.1), lengths)
        present = torch.tensor([token for row in targets for token in row])
        vocabulary = torch.unique(torch.cat([common, present]))
        ctc = ctc_loss(adapter, speech_embeds, out_lengths, targets, token_embeds, vocabulary)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, step / 20) * max(0.01, 1 - step / args.steps)
        optimizer.zero_grad(set_to_none=True)
        (loss + args.ctc_weight * ctc).backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), adapter.parameters()):
                slow.lerp_(fast, 1 - min(0.98, step / (step + 10)))
        if step % 10 == 0:
            print(f"step {step} behaviour {loss.item():.3f} ctc {ctc.item():.3f}", flush=True)
        if step % 50 == 0 or step == args.steps:
            report(step)
            torch.save(average.state_dict(), args.out / "adapter.partial")
            (args.out / "adapter.partial").replace(args.out / "adapter.pt")
        if step == args.steps:
            break


@torch.inference_mode()
def held_out_loss(model: BlspModel, examples: list[PromptExample]) -> float:
    """Mean cross entropy of a behaviour on utterances that are not trained on."""
    losses = [float(model(model.collate(examples[i : i + 8])).loss) for i in range(0, len(examples), 8)]
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
