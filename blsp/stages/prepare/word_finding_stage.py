"""Stage `word_finding`: what an adapter's search finds in utterances, so that training need not search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from blsp.data.line_store import LineStore, Shard
from blsp.data.speech.speech_batch import SpeechConfig
from blsp.environment import is_main_process
from blsp.models.model_config import ModelConfig, model_inputs
from blsp.progress import Watcher
from blsp.stages.stage import Plan, Stage, StageConfig

if TYPE_CHECKING:
    from torch import Tensor

    from blsp.data.manifest import Manifest
    from blsp.data.speech.feature_cache import FeatureCache
    from blsp.data.speech.found_words import FoundWords
    from blsp.data.speech.speech_batch import SpeechLoader
    from blsp.decoding.speech_reader import SpeechReader
    from blsp.modeling.adapter import LetterScores

FILE_NAME = "found_words.jsonl"
_TIMES_REAL_TIME = 4.0
"""Rough speed of finding words together with an LLM of 1.5 billion parameters on one core."""
_SURELY_SPEECH = 100.0
"""Evidence, in nats, that corpora hold speech."""


@dataclass(frozen=True, kw_only=True)
class WordFindingConfig(StageConfig):
    """Whose words, and who finds them."""

    manifest: Path
    """Utterances with transcripts."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Model whose adapter reads and whose LLM tells words apart that sound alike."""
    search: Literal["sound", "sound_and_llm"] = "sound_and_llm"
    """What the search goes by: with `sound` it takes a tenth of the time, and misreads more."""
    packed: bool = True
    """Let a CPU run the LLM by its packed weights, where it has such."""
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    """How speech is read; as in the training that uses the words, so that both hear the same."""
    spares_search: bool = True
    """Take the transcript where the CTC head alone reads its words already: the search would find them too, and is what
    takes the time."""
    batch_size: int = 16
    """Utterances that are searched together."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, but is {self.batch_size}.")
        if self.speech.augmentation.variants != 1 and self.speech.augmentation.changes_waveform:
            raise ValueError(
                f"`speech.augmentation.variants` must be 1, but is {self.speech.augmentation.variants}: words are "
                "found in one version of each utterance."
            )


class WordFindingStage(Stage[WordFindingConfig]):
    """Searches every utterance of a manifest."""

    name: ClassVar[str] = "word_finding"
    about: ClassVar[str] = "An adapter's search finds words in utterances: what alignment of ctc_residual starts from."
    needs: ClassVar[str] = "a manifest with transcripts, a model whose adapter has a CTC head"
    makes: ClassVar[str] = f"{FILE_NAME}: id, ids, spans, misread"
    config_class: ClassVar[type[StageConfig]] = WordFindingConfig

    def inputs(self, config: WordFindingConfig) -> list[Path]:
        """The manifest, and the model where it is a folder."""
        return [config.manifest, *model_inputs(config.model, speech=True)]

    def outputs(self, config: WordFindingConfig) -> list[Path]:
        """The words."""
        return [config.out / FILE_NAME]

    def plan(self, config: WordFindingConfig) -> Plan:
        """Utterances and hours, where the manifest is there."""
        if not config.manifest.exists():
            return Plan({}, notes=[f"{config.manifest} is not there yet."])
        from blsp.data.manifest import Manifest

        manifest = Manifest(config.manifest)
        seconds = sum(utterance.duration for utterance in manifest)
        facts: dict[str, str | int | float] = {"utterances": len(manifest), "hours": round(seconds / 3600, 2)}
        note = f"Searching is taken to be {_TIMES_REAL_TIME:g} times as fast as speech on one core."
        return Plan(facts, seconds / _TIMES_REAL_TIME / Shard.of_process().world, notes=(note,))

    def run(self, config: WordFindingConfig, watcher: Watcher) -> dict[str, Any]:
        """Search what is missing."""
        from blsp.data.manifest import Manifest
        from blsp.data.speech.found_words import read_found_words

        manifest = Manifest(config.manifest)
        store = LineStore(config.out / FILE_NAME, len(manifest))
        chunks = list(store.chunks(config.batch_size))
        finder = _Finder(config, manifest) if chunks else None
        done, total = 0, sum(map(len, chunks))
        for chunk in chunks:
            assert finder is not None
            store.write({number: line.fields() for number, line in zip(chunk, finder.find(chunk))})
            done += len(chunk)
            watcher.advance(done, total, "utterance", {})
        store.publish()
        if not is_main_process():
            return {}
        lines = list(read_found_words(store.path))
        misread = sum(line.misread for line in lines)
        return {"utterances": len(lines), "misread": misread, "tokens": sum(len(line.ids) for line in lines)}


class _Finder:
    """A model that searches the utterances of a manifest."""

    def __init__(self, config: WordFindingConfig, manifest: Manifest) -> None:
        from blsp.data.speech.encoding import open_cache
        from blsp.data.speech.speech_batch import SpeechLoader
        from blsp.decoding.speech_reader import speech_reader
        from blsp.metrics.normalizers import ENGLISH, normalizer

        self._config, self._manifest = config, manifest
        self._model = config.model.load(packed=config.packed)
        assert self._model.encoder is not None
        self._cache: FeatureCache | None = open_cache(config.speech, self._model.encoder)
        self._loader: SpeechLoader = SpeechLoader(
            manifest, config.speech, self._model.encoder, cache=self._cache, seed=config.seed
        )
        self._reader: SpeechReader = speech_reader(self._model)
        self._words = normalizer(ENGLISH)

    def find(self, numbers: Sequence[int]) -> list[FoundWords]:
        """What is found in some utterances; nothing in those that cannot be read."""
        import numpy as np
        import torch

        from blsp.data.speech.encoding import encode
        from blsp.data.speech.found_words import FoundWords
        from blsp.decoding.search.token_spans import token_spans

        assert self._model.encoder is not None
        assert self._model.adapter is not None
        speech = self._loader.load(numbers, 0)
        found = {n: FoundWords(self._manifest[n].id, (), np.zeros((0, 2), np.float32), misread=True) for n in numbers}
        if not len(speech):
            return list(found.values())
        kept = [numbers[i] for i in speech.kept]
        with torch.inference_mode():
            states = encode(speech, self._model.encoder, self._cache)
            heard = self._model.adapter.forward_with_letters(states.values, states.lengths)
            rows = self._search([self._manifest[n].text for n in kept], *heard)
            spans = token_spans(self._model.tokenizer, [ids for ids, _ in rows], heard[2], heard[1].tolist())
        for number, (ids, misread), places in zip(kept, rows, spans):
            found[number] = FoundWords(self._manifest[number].id, ids, places.numpy(), misread)
        return list(found.values())

    def _search(
        self, texts: Sequence[str], frames: Tensor, lengths: Tensor, letters: LetterScores | None
    ) -> list[tuple[tuple[int, ...], bool]]:
        """Token ids of what is found in each utterance, and whether they are other words than its transcript's."""
        from blsp.data.transcripts import as_written
        from blsp.decoding.text_stream import decode
        from blsp.modeling.adapter import LetterScores, ctc_greedy_tokens
        from blsp.modeling.prompt import PlainText

        finder, tokenizer = self._reader.words, self._model.tokenizer
        if finder is None:
            raise ValueError("`model` must have an adapter with a CTC head, but has none.")
        typed = PlainText(tokenizer)
        logits = finder.token_scores(frames)
        rows: list[tuple[tuple[int, ...], bool]] = [((), True)] * len(texts)
        left = list(range(len(texts)))
        if self._config.spares_search:
            vocabulary = finder.adapter.ctc.vocabulary if finder.adapter.ctc is not None else None
            for i, labels in enumerate(ctc_greedy_tokens(logits, lengths)):
                ids = labels if vocabulary is None else vocabulary[labels].tolist()
                if self._words(decode(tokenizer, ids)) == self._words(texts[i]):
                    rows[i] = typed.ids(as_written(texts[i])), False
            left = [i for i in left if rows[i][1]]
        if left:
            spelt = None if letters is None else LetterScores(letters.logits[left], letters.lengths[left])
            heard = frames[left], lengths[left], spelt, logits[left], [_SURELY_SPEECH] * len(left)
            if self._config.search == "sound":
                sentences = finder.sentences_by_sound(*heard)
            else:
                sentences = [sentence.ids for sentence in finder.sentences(*heard)]
            for i, ids in zip(left, sentences):
                rows[i] = tuple(ids), self._words(decode(tokenizer, ids)) != self._words(texts[i])
        return rows
