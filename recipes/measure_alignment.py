"""How far an LLM that hears is from the same LLM that reads the transcript: KL a token, by instruction.

Run: python -m recipes.measure_alignment --model embedded --llm LLM --manifest M --found FOUND ANSWERS...
The answers (of a stage `behaviours`) are the LLM's own to the transcripts. Two ways to hand speech over are compared on
the same utterances: the tokens found (`ctc_words`), and what the adapter makes of them (`ctc_residual`). Intervals are
paired bootstraps over answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from blsp.data.answers.answer_filter import AnswerFilter
from blsp.data.answers.answer_sources import SourceConfig
from blsp.data.answers.behaviours import read_behaviours
from blsp.data.manifest import Manifest
from blsp.data.sample_set import load_samples
from blsp.data.speech.found_words import read_found_words
from blsp.data.speech.speech_batch import SpeechConfig, SpeechLoader
from blsp.data.transcripts import speller
from blsp.evaluation.significance import ResamplingConfig, percentile_interval, resample_counts
from blsp.modeling.batch import PromptBatch, PromptRow
from blsp.modeling.model import BlspModel
from blsp.modeling.prompt import SpeechSegment, TokenSegment
from blsp.models.model_config import ModelConfig
from blsp.models.spec import resolve
from blsp.training.product import Product
from blsp.training.tasks.alignment_task import (
    AlignmentData,
    AlignmentModule,
    AlignmentOptions,
    AlignmentTask,
    AnswerBatch,
    SpeechSamples,
)
from blsp.training.tasks.objective_config import ObjectiveConfig
from blsp.training.tasks.vocabulary import Transcripts

SYSTEMS = ("words", "adapter")
Array = npt.NDArray[np.float64]


def distances(task: AlignmentTask, batch: AnswerBatch) -> dict[str, list[float]]:
    """KL summed over the answer tokens of each row of a batch, by system."""
    module = task.module
    assert isinstance(module, AlignmentModule)
    model = module.model
    teacher = _log_probs(model, PromptBatch(batch.text_rows))
    read = {
        "words": PromptBatch(_with_words(batch.rows, [words.ids for words in batch.found])),
        "adapter": PromptBatch(batch.rows, module.hear(batch).embeds),
    }
    lengths = [len(row.learnt_ids) for row in batch.rows]
    found = {}
    for system, prompts in read.items():
        each = (teacher.exp() * (teacher - _log_probs(model, prompts))).sum(dim=1)
        found[system] = [float(part.sum()) for part in torch.split(each, lengths)]
    return found


def _log_probs(model: BlspModel, prompts: PromptBatch) -> Tensor:
    """Of all tokens in the place of each answer token, float (N, V)."""
    return model(prompts).logits.float().log_softmax(dim=1)  # type: ignore[no-any-return]


def _with_words(rows: Sequence[PromptRow], words: Sequence[Sequence[int]]) -> tuple[PromptRow, ...]:
    """Rows with tokens in the gaps for speech."""
    ids = iter(words)
    return tuple(
        PromptRow(
            tuple(TokenSegment(tuple(next(ids))) if isinstance(s, SpeechSegment) else s for s in row.segments),
            row.response_ids,
        )
        for row in rows
    )


@torch.no_grad()
def measure(
    model: BlspModel, manifest: Manifest, found: Path, answers: Path, behaviour: str, batch_size: int
) -> tuple[dict[str, Array], Array]:
    """KL of each answer by system, float (n,), and the tokens of each."""
    source = SourceConfig(behaviour, path=answers, filter=AnswerFilter(refusals=False, loops=False))
    assert model.encoder is not None
    samples = SpeechSamples(
        manifest,
        load_samples(manifest, (source,), 0),
        SpeechLoader(manifest, SpeechConfig(), model.encoder),
        {words.id: words for words in read_found_words(found)},
    )
    objective = ObjectiveConfig(cross_entropy=0.0, distillation=1.0, temperature=2.0)  # so that no teacher is kept
    data = AlignmentData(samples, transcripts=Transcripts(model.tokenizer, speller("written")))
    options = AlignmentOptions(batch_size=batch_size, objective=objective)
    task = AlignmentTask(model, Product(resolve("embedded"), Path()), data, options)
    sums: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    tokens: list[int] = []
    for step in task.epoch(0):
        for microbatch in step:
            batch = task.load(microbatch, 0)
            if not batch.rows:
                continue
            for system, values in distances(task, batch).items():
                sums[system] += values
            tokens += [len(row.learnt_ids) for row in batch.rows]
    return {system: np.asarray(values) for system, values in sums.items()}, np.asarray(tokens, np.float64)


def table_row(sums: dict[str, Array], tokens: Array) -> str:
    """KL a token with its interval for each system, and the adapter's as a share of the words'."""
    counts = np.concatenate(list(resample_counts(len(tokens), ResamplingConfig())))
    cells, drawn = [], {}
    for system in SYSTEMS:
        drawn[system] = (counts @ sums[system]) / (counts @ tokens)
        low, high = percentile_interval(drawn[system])
        cells.append(f"{sums[system].sum() / tokens.sum():.3f} [{float(low):.3f}, {float(high):.3f}]")
    low, high = percentile_interval(drawn["adapter"] / drawn["words"])
    share = sums["adapter"].sum() / sums["words"].sum()
    return " | ".join([*cells, f"{share:.2f} [{float(low):.2f}, {float(high):.2f}]", str(len(tokens))])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, nargs="+", help="behaviours.jsonl files")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--llm", help="folder or hub id of the same LLM in plain weights")
    parser.add_argument("--adapter", help="folder of another adapter")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--found", type=Path, required=True, help="found_words.jsonl of the manifest")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    config = ModelConfig(name=args.model, llm=args.llm, adapter=args.adapter, dtype=args.dtype)
    model = config.load()
    assert model.adapter is not None
    if model.adapter.residual is None:
        model.adapter.set_readout("ctc_residual")
    manifest = Manifest(args.manifest)
    print(
        "| behaviour | " + " | ".join(SYSTEMS) + " | adapter / words | answers |\n|---|---|---|---|---|---|", flush=True
    )
    total: list[tuple[dict[str, Array], Array]] = []
    for path in args.answers:
        for behaviour in sorted({line.behaviour for line in read_behaviours(path)}):
            total.append(measure(model, manifest, args.found, path, behaviour, args.batch_size))
            print(f"| {behaviour} | {table_row(*total[-1])} |", flush=True)
    joined = {system: np.concatenate([sums[system] for sums, _ in total]) for system in SYSTEMS}
    print(f"| all | {table_row(joined, np.concatenate([tokens for _, tokens in total]))} |")


if __name__ == "__main__":
    main()
