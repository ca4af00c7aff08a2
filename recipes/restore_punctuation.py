"""Write a manifest whose transcripts have capitals and punctuation again: the LLM puts them in, and no word changes.

Corpora such as LibriSpeech have their transcripts in capitals without marks. What the LLM writes is taken where it has
the same words; elsewhere the words are put in true case, with a full stop.

Run: python -m recipes.restore_punctuation CORPUS runs/embedded/librispeech --split train --llm FOLDER --spelling TEXT
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from blsp.conversation import Turn
from blsp.data.corpora import corpus_named
from blsp.data.line_store import LineStore
from blsp.data.manifest import ErrorCount, write_manifest
from blsp.data.transcripts import speller
from blsp.decoding.batched import BatchDecoder
from blsp.decoding.text_stream import decode
from blsp.json_lines import read_lines
from blsp.modeling.batch import PromptRow, token_ids
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import render
from blsp.models.load import load_model
from blsp.models.spec import resolve

INSTRUCTION = "Write this with capitals and punctuation. Change no word, add no word:\n"
EXAMPLES = (
    ("MISTER SMITH WHERE DID YOU GO HE ASKED", "Mister Smith, where did you go? he asked."),
    ("i live in new york", "I live in New York."),
    ("SHE HAD A CAT A DOG AND TWO BIRDS", "She had a cat, a dog, and two birds."),
    ("ZERO FOUR TWO", "Zero four two."),
)
_WORD = re.compile(r"[a-z0-9']+")


def words(text: str) -> list[str]:
    """The words of a text in small letters."""
    return _WORD.findall(text.lower().replace("’", "'").replace("-", " "))


def prompt(text: str) -> list[Turn]:
    """A conversation in which the last turn asks for a text."""
    turns = []
    for given, written in EXAMPLES:
        turns += [Turn("user", INSTRUCTION + given), Turn("assistant", written)]
    return [*turns, Turn("user", INSTRUCTION + text.lower())]


@torch.inference_mode()
def restore(model: BlspModel, texts: Sequence[str]) -> list[str | None]:
    """How the LLM writes each text; None where it changes a word. Instruction and examples are read once."""
    rows = [token_ids(PromptRow(tuple(render(model.template, prompt(text))))) for text in texts]
    n_known = next(i for i, ids in enumerate(zip(*rows)) if len(set(ids)) > 1) if len(rows) > 1 else 0
    longest = max(map(len, rows)) - n_known
    mask = torch.tensor(
        [[True] * n_known + [False] * (longest - len(r) + n_known) + [True] * (len(r) - n_known) for r in rows]
    )
    ids = torch.tensor([[0] * (longest - len(r) + n_known) + list(r[n_known:]) for r in rows])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, n_known:]
    decoder = BatchDecoder(model, mask, model.prefixes.read(tuple(rows[0][:n_known]), len(rows)))
    logits = decoder.run(model.embed_tokens(ids.flatten()).view(len(rows), longest, -1), positions)
    written: list[list[int]] = [[] for _ in rows]
    stops = model.stop_token_ids | {model.tokenizer("\n", add_special_tokens=False).input_ids[0]}
    active, limit = list(range(len(rows))), max(len(text.split()) for text in texts) * 3 + 8
    for _ in range(limit):
        chosen = logits.argmax(dim=1).tolist()
        keep = [i for i, token in enumerate(chosen) if token not in stops]
        if not keep:
            break
        decoder.keep(keep)
        active = [active[i] for i in keep]
        for row, i in zip(active, keep):
            written[row].append(chosen[i])
        logits = decoder.step([written[row][-1] for row in active])
    found = [decode(model.tokenizer, ids).strip() for ids in written]
    return [line if words(line) == words(text) else None for line, text in zip(found, texts)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path, help="folder of the new manifest")
    parser.add_argument("--split", default="all")
    parser.add_argument("--llm", default="embedded")
    parser.add_argument("--spelling", type=Path, nargs="+", required=True, help="texts from which true case is learned")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    utterances = list(corpus_named("generic").read(arguments.corpus, arguments.split, ErrorCount()))
    texts = sorted({utterance.text for utterance in utterances}, key=lambda text: (len(text), text))
    arguments.out.mkdir(parents=True, exist_ok=True)
    store = LineStore(arguments.out / "restored.jsonl", len(texts))
    model = load_model(resolve("embedded", llm=arguments.llm), dtype="bfloat16", speech=False)
    for chunk in store.chunks(arguments.batch_size):
        found = restore(model, [texts[i] for i in chunk])
        store.write({i: {"text": texts[i], "written": line} for i, line in zip(chunk, found)})
        print(f"{store.n_done}/{len(texts)}", texts[chunk[0]], "->", found[0], flush=True)
    store.publish()
    spell = speller("true", arguments.spelling)
    written = {line["text"]: line["written"] for _, line in read_lines(store.path)}
    lost = sum(line is None for line in written.values())
    print(f"{lost} of {len(written)} texts were not written word by word.")

    def restored(text: str) -> str:
        plain = spell(text)
        return written[text] or f"{plain[:1].upper()}{plain[1:]}."

    write_manifest(
        arguments.out / "manifest.jsonl",
        (replace(utterance, text=restored(utterance.text)) for utterance in utterances),
    )


if __name__ == "__main__":
    main()
