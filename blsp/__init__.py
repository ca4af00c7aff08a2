"""blsp: speech straight into a frozen language model, by behaviour alignment (arXiv 2309.00916).

    import blsp

    model = blsp.load_model()
    print(blsp.transcribe(model, "a.wav").text)
    for piece in blsp.Conversation(model).reply("What is the capital of France?"):
        print(piece, end="")

Importing this package loads no torch: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING
from typing import Any as _Any

# Read by torch at its first allocation, and left alone where it is set already: large weights in large pages are read
# faster by a twelfth, and given back at the end in a third of the time.
_os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.2.0"

if TYPE_CHECKING:
    from blsp.audio.read import load_audio, stream_audio
    from blsp.conversation import Turn
    from blsp.decoding.conversation import Conversation
    from blsp.decoding.sampling import GenerationConfig
    from blsp.decoding.speech_to_text import Transcript, ask, transcribe, translate
    from blsp.errors import (
        AudioError,
        BlspError,
        CheckpointError,
        ContextFullError,
        ForeignSpeechError,
        ModelNotFoundError,
        NoSpeechError,
        StorageError,
        UnsupportedError,
    )
    from blsp.modeling.model import BlspModel
    from blsp.models.by_name import load_model
    from blsp.segments import Segment, Word

__all__ = [
    "AudioError",
    "BlspError",
    "BlspModel",
    "CheckpointError",
    "ContextFullError",
    "Conversation",
    "ForeignSpeechError",
    "GenerationConfig",
    "ModelNotFoundError",
    "NoSpeechError",
    "Segment",
    "StorageError",
    "Transcript",
    "Turn",
    "UnsupportedError",
    "Word",
    "__version__",
    "ask",
    "load_audio",
    "load_model",
    "stream_audio",
    "transcribe",
    "translate",
]

_MODULES = {
    "BlspModel": "modeling.model",
    "Conversation": "decoding.conversation",
    "GenerationConfig": "decoding.sampling",
    "Segment": "segments",
    "Transcript": "decoding.speech_to_text",
    "Turn": "conversation",
    "Word": "segments",
    "ask": "decoding.speech_to_text",
    "load_audio": "audio.read",
    "load_model": "models.by_name",
    "stream_audio": "audio.read",
    "transcribe": "decoding.speech_to_text",
    "translate": "decoding.speech_to_text",
}
"""Where the names of `__all__` that are not errors come from."""


def __getattr__(name: str) -> _Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
