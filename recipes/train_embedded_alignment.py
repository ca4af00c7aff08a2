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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blsp.conversation import Turn
from blsp.data.feature_cache import FeatureShard
from blsp.data.transcripts import Truecaser
from blsp.instructions import CONTINUE, repeat_instruction
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.batch import PromptExample
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import CACHED_SPEECH, ChatPromptTemplate
from blsp.training.objectives import ctc_loss
from recipes.train_embedded_ctc import (
    ENCODER_DIM,
    collate,
    common_tokens,
    evaluate,
    length_batches,
    load_examples,
    truecaser,
)


def behaviour_examples(path: Path, features: Path, spell: Truecaser) -> list[PromptExample]:
    """The behaviours of a file, and a repetition for every second of them; hidden states are read when used."""
    shards: dict[str, FeatureShard] = {}
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        entry = json.loads(line)
        name = entry["shard"]
        shard = shards.setdefault(name, FeatureShard(features / f"{name}.jsonl", ENCODER_DIM))
        states = (_LazyStates(shard, entry["index"]),)
        instruction = "" if entry["behaviour"] == "chat" else CONTINUE
        turns = [Turn("user", instruction, CACHED_SPEECH)]
        examples.append(PromptExample(turns, entry["response"], hidden_states=states))  # type: ignore[arg-type]
        if number % 2 == 0 and (words := spell(entry["text"]).strip()):
            turns = repeat_instruction().turns(CACHED_SPEECH)
            examples.append(PromptExample(turns, words, hidden_states=states))  # type: ignore[arg-type]
    return examples


class _LazyStates:
    def __init__(self, shard: FeatureShard, index: int) -> None:
        self.shard, self.index = shard, index

    def load(self) -> Tensor:
        return self.shard.hidden_states(self.index)


def batches(examples: list[PromptExample], size: int, generator: torch.Generator) -> Iterator[list[PromptExample]]:
    """Endless batches; examples of like length go together."""
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        for start in range(0, len(order) - 16 * size + 1, 16 * size):
            pool = sorted(order[start : start + 16 * size], key=lambda i: _length(examples[i]))
            groups = [pool[k : k + size] for k in range(0, len(pool), size)]
            for g in torch.randperm(len(groups), generator=generator).tolist():
                yield [_with_states(examples[i]) for i in groups[g]]


def _length(example: PromptExample) -> int:
    return sum(len(turn.text) for turn in example.turns) + len(example.response)


def _with_states(example: PromptExample) -> PromptExample:
    states = tuple(lazy.load() for lazy in example.hidden_states)  # type: ignore[attr-defined]
    return PromptExample(example.turns, example.response, hidden_states=states)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--behaviours", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--llm", required=True, help="folder of the LLM")
    parser.add_argument("--init", type=Path, required=True, help="adapter.pt to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--ctc-weight", type=float, default=1.0)
    parser.add_argument("--held-out", type=int, default=64, help="behaviours kept for the development loss")
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
    examples = behaviour_examples(args.behaviours, args.features, spell)
    held_out, examples = examples[: args.held_out], examples[args.held_out :]
    generator = torch.Generator().manual_seed(0)
    ctc_batches = length_batches(reading, 1600, generator)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    average = copy.deepcopy(adapter)
    started = time.perf_counter()

    def report(step: int) -> None:
        model.adapter = average
        losses = [held_out_loss(model, held_out[i : i + 8]) for i in range(0, len(held_out), 8)]
        model.adapter = adapter
        entry = {
            "step": step,
            "behaviour_loss": sum(losses) / len(losses),
            "wer": evaluate(average, dev, spell, token_embeds, tokenizer),
            "seconds": round(time.perf_counter() - started),
        }
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)

    report(0)
    for step, batch in enumerate(batches(examples, 8, generator), start=1):
        loss = model(model.collate(batch)).loss
        hidden_states, lengths, targets = collate(next(ctc_batches))
        speech_embeds, out_lengths = adapter(hidden_states, lengths)
        present = torch.tensor([token for row in targets for token in row])
        vocabulary = torch.unique(torch.cat([common, present]))
        ctc = ctc_loss(adapter, speech_embeds, out_lengths, targets, token_embeds, vocabulary)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, step / 20) * max(0.02, 1 - step / args.steps)
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
    """Mean cross entropy of behaviours that are not trained on."""
    return float(model(model.collate([_with_states(example) for example in examples])).loss)


if __name__ == "__main__":
    main()
