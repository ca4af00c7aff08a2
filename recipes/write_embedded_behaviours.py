"""Write what the embedded LLM answers to transcripts: the behaviours that the adapter learns to bring about.

Needs: cached features with their transcripts (recipes.prepare_embedded_data), the embedded LLM.
Run: python -m recipes.write_embedded_behaviours --features runs/features --llm LLM_FOLDER --out runs/behaviours.jsonl
Makes: one line an utterance: shard, index, behaviour (chat or continuation), response. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blsp.batched_generation import generate_texts
from blsp.conversation import Turn
from blsp.data.feature_cache import FeatureShard
from blsp.decoding import GenerationConfig
from blsp.instructions import CONTINUE
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import ChatPromptTemplate
from recipes.train_embedded_ctc import ENCODER_DIM

CHAT_KINDS = ("requests", "sgd_user", "snips")
SHARE = {"requests": 0.45, "sgd_user": 0.15, "snips": 0.05, "librispeech": 0.15, "libritts": 0.15, "ljspeech": 0.05}
"""Where utterances come from."""
Choice = dict[str, Any]


def choose(features: Path, count: int, seed: int = 0) -> list[Choice]:
    """Utterances in random order, as many of each kind as `SHARE` says."""
    rng = np.random.default_rng(seed)
    by_kind: dict[str, list[Choice]] = {kind: [] for kind in SHARE}
    for path in sorted([*features.glob("real-*.jsonl"), *features.glob("mixed-*.jsonl")]):
        for i, entry in enumerate(FeatureShard(path, ENCODER_DIM).entries):
            if entry["kind"] in SHARE and entry["seconds"] < 12:
                by_kind[entry["kind"]].append({"shard": path.stem, "index": i, **_task(entry, rng)})
    chosen = []
    for kind, share in SHARE.items():
        rng.shuffle(by_kind[kind])  # type: ignore[arg-type]
        chosen += by_kind[kind][: round(share * count)]
    rng.shuffle(chosen)  # type: ignore[arg-type]
    return chosen


def _task(entry: Choice, rng: np.random.Generator) -> Choice:
    text = entry["text"] if any(c.islower() for c in entry["text"]) else entry["text"].lower()
    is_chat = entry["kind"] in CHAT_KINDS and rng.random() < 0.9
    return {"behaviour": "chat" if is_chat else "continuation", "text": text, "kind": entry["kind"]}


def prompt(choice: Choice) -> list[Turn]:
    """What the LLM reads."""
    if choice["behaviour"] == "chat":
        return [Turn("user", choice["text"])]
    return [Turn("user", f"{CONTINUE} {choice['text']}")]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--llm", required=True, help="folder of the LLM")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.llm)
    llm = AutoModelForCausalLM.from_pretrained(args.llm)
    model = BlspModel(None, None, llm, tokenizer, ChatPromptTemplate(tokenizer))
    choices = choose(args.features, args.count)
    done = len(args.out.read_text(encoding="utf-8").splitlines()) if args.out.exists() else 0
    config = GenerationConfig(max_new_tokens=args.max_new_tokens)
    with args.out.open("a", encoding="utf-8") as out:
        for start in range(done, len(choices), 192):
            part = choices[start : start + 192]
            answers = generate_texts(model, [prompt(choice) for choice in part], config, batch_size=48)
            out.writelines(json.dumps({**c, "response": a}) + "\n" for c, a in zip(part, answers))
            out.flush()
            print(f"{start + len(part)} of {len(choices)}", flush=True)


if __name__ == "__main__":
    main()
