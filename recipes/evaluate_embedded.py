"""Score a speech model: how its recogniser reads, how the LLM repeats, how spoken questions are answered.

Needs: VOICECHAT_DATA. Run: python -m recipes.evaluate_embedded --out runs/evaluation [--adapter FOLDER] [--limit N]
Makes: out/CORPUS.jsonl with every reference and hypothesis, and prints the table of RESULTS.md.
The questions are spoken by hibari-tts (`pip install voicechat[speak]`) and were held out from training.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from blsp.audio import load_audio
from blsp.batched_generation import generate_texts
from blsp.conversation import Turn
from blsp.decoding import GenerationConfig
from blsp.evaluation.metrics import wer
from blsp.evaluation.normalizers import ENGLISH, normalizer
from blsp.features import extract_features
from blsp.instructions import REPEAT, repeat_instruction
from blsp.modeling.adapter import ctc_greedy_tokens
from blsp.modeling.model import BlspModel
from blsp.pretrained import load_model, resolve
from blsp.transcription import transcribe
from recipes.question_templates import HELD_OUT

CORPORA = ("librispeech", "speechocean762")


def dev_utterances(data: Path, corpus: str, limit: int | None) -> list[tuple[np.ndarray, str]]:
    """Waveforms and transcripts of a corpus's dev split, evenly chosen if there is a limit."""
    folder = data / "speech" / corpus
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    entries = [entry for entry in entries if entry["split"] == "dev"]
    if limit and limit < len(entries):
        entries = [entries[i * len(entries) // limit] for i in range(limit)]
    return [(load_audio(folder / entry["audio"]), entry["text"]) for entry in entries]


@torch.inference_mode()
def read(model: BlspModel, waveforms: Sequence[np.ndarray]) -> Iterator[str]:
    """What the adapter's CTC head reads, without the LLM."""
    if model.encoder is None or model.adapter is None or model.adapter.ctc is None:
        return
    token_embeds = model.llm.get_input_embeddings().weight
    for waveform in waveforms:
        features, lengths = extract_features([waveform], model.encoder.n_mels, padded=model.encoder.padded)
        speech_embeds, lengths = model.adapter(*model.encoder(features, lengths))
        tokens = ctc_greedy_tokens(model.adapter.ctc.logits(speech_embeds, token_embeds), lengths)
        yield str(model.tokenizer.decode(tokens[0]))


def score_corpus(model: BlspModel, data: Path, corpus: str, args: argparse.Namespace) -> dict[str, float]:
    """WER of the recogniser, of the LLM on speech, and of the LLM on the true transcript; all texts are saved."""
    utterances = dev_utterances(data, corpus, args.limit)
    transcripts = [text.lower() for _, text in utterances]
    config = GenerationConfig(max_new_tokens=160)
    repeat = repeat_instruction()
    systems = {
        "recogniser": list(read(model, [waveform for waveform, _ in utterances])),
        "speech + LLM": [transcribe(model, waveform) for waveform, _ in utterances],
    }
    if args.text:
        prompts = [[*repeat.examples, Turn("user", f"{REPEAT} {text}")] for text in transcripts]
        systems["transcript + LLM"] = generate_texts(model, prompts, config)
    normalize = normalizer(ENGLISH)
    references = [normalize(text) for text in transcripts]
    scores = {}
    with (args.out / f"{corpus}.jsonl").open("w", encoding="utf-8") as out:
        for name, texts in systems.items():
            scores[name] = wer(references=references, hypotheses=[normalize(text) for text in texts])
            for text, hypothesis in zip(transcripts, texts):
                out.write(json.dumps({"system": name, "reference": text, "hypothesis": hypothesis}) + "\n")
    return scores


def ask(model: BlspModel) -> Iterator[tuple[str, str, str]]:
    """The held-out questions with the answers to their spoken and typed forms."""
    from blsp.data.synthesis import Synthesizer, Voice

    questions = sorted(HELD_OUT)
    synthesizer, rng = Synthesizer(), np.random.default_rng(0)
    config = GenerationConfig(max_new_tokens=48)
    spoken = [Turn("user", speech=synthesizer.speak(question, Voice(), rng)) for question in questions]
    to_speech = generate_texts(model, [[turn] for turn in spoken], config)
    to_text = generate_texts(model, [[Turn("user", question)] for question in questions], config)
    yield from zip(questions, to_speech, to_text)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("VOICECHAT_DATA", "../shared")))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--adapter", help="another adapter than the model's own")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="utterances of each corpus; all by default")
    parser.add_argument("--corpora", nargs="*", default=CORPORA)
    parser.add_argument("--text", action="store_true", help="also let the LLM repeat the true transcripts")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = load_model(resolve(args.model, adapter=args.adapter))
    for corpus in args.corpora:
        for name, rate in score_corpus(model, args.data, corpus, args).items():
            print(f"{corpus:16} {name:18} {rate:5.1f} % WER ({ENGLISH})", flush=True)
    for question, to_speech, to_text in ask(model):
        print(f"\n{question}\n  spoken: {to_speech}\n  typed:  {to_text}", flush=True)


if __name__ == "__main__":
    main()
