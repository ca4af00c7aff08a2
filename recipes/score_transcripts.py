"""Score what `voicechat transcribe -f json -o OUT` wrote against a corpus's manifest.

Run: voicechat transcribe $(python -m recipes.score_transcripts --list CORPUS_FOLDER --split dev) -f json -o OUT
     python -m recipes.score_transcripts CORPUS_FOLDER OUT --split dev
A recording without a result (no speech was found) counts as transcribed by nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from blsp.json_lines import read_lines
from blsp.metrics.corpus_metrics import corpus_word_errors
from blsp.metrics.normalizers import ENGLISH, normalizer


def utterances(corpus: Path, split: str) -> dict[str, tuple[Path, str]]:
    """Audio file and transcript of each utterance of a split, by the name of its result."""
    entries = [line for _, line in read_lines(corpus / "manifest.jsonl")]
    chosen = [entry for entry in entries if entry.get("split") == split]
    return {Path(entry["audio"]).stem: (corpus / entry["audio"], entry["text"]) for entry in chosen}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--list", action="store_true", help="print the audio files instead")
    args = parser.parse_args()
    found = utterances(args.corpus, args.split)
    if args.list or args.results is None:
        print("\n".join(str(path) for path, _ in found.values()))
        return
    normalize = normalizer(ENGLISH)
    files = {name: args.results / f"{name}.json" for name in found}
    texts = {
        name: json.loads(file.read_text(encoding="utf-8"))["text"] if file.exists() else ""
        for name, file in files.items()
    }
    errors = corpus_word_errors(
        references=[normalize(text) for _, text in found.values()], hypotheses=[normalize(t) for t in texts.values()]
    )
    missing = sum(not file.exists() for file in files.values())
    print(f"{errors.rate:.1f} % WER ({ENGLISH}), {len(found)} utterances, {missing} without a result")
    print(errors)


if __name__ == "__main__":
    main()
