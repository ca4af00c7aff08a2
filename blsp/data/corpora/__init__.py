"""Corpora by name: where their official files lie, how big they are, how they become utterances."""

from __future__ import annotations

from blsp.data.corpora.alpaca import Alpaca
from blsp.data.corpora.bstc import Bstc
from blsp.data.corpora.common_voice import CommonVoice
from blsp.data.corpora.corpus import Corpus
from blsp.data.corpora.covost2 import CoVoST2
from blsp.data.corpora.fsc import FluentSpeechCommands
from blsp.data.corpora.generic import Generic
from blsp.data.corpora.gigaspeech import GigaSpeech
from blsp.data.corpora.librispeech import LibriSpeech
from blsp.data.corpora.mslt import Mslt
from blsp.data.corpora.mustc import MustC
from blsp.data.corpora.slue_voxceleb import SlueVoxCeleb
from blsp.data.corpora.snips import Snips
from blsp.data.corpora.tedlium import TedLium
from blsp.errors import ConfigError
from blsp.suggestion import did_you_mean

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        *(LibriSpeech(), GigaSpeech(), CommonVoice()),  # what the paper trains on
        *(TedLium(), CoVoST2(), MustC(), Snips(), FluentSpeechCommands(), SlueVoxCeleb(), Bstc(), Mslt()),
        *(Alpaca(), Generic()),
    )
}


def corpus_named(name: str) -> Corpus:
    """The corpus that a config names.

    Raises:
        ConfigError: There is no such corpus.
    """
    if name not in CORPORA:
        hints = (did_you_mean(name, CORPORA), "Your own recordings are read by `generic`.")
        raise ConfigError(f"There is no corpus {name!r}.", hint=" ".join(filter(None, hints)))
    return CORPORA[name]
