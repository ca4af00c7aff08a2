"""What can go wrong in the library.

```text
BlspError                     something went wrong; `hint` names the way out
├── AudioError                audio that cannot be read or used
│   ├── NoSpeechError         audio without speech in it
│   └── ForeignSpeechError    speech in a language that the adapter does not know
├── ModelNotFoundError        weights that are not there and cannot be had
│   ├── DownloadError         the network or a registry failed
│   └── ChecksumError         a file is not what it should be
├── CheckpointError           a checkpoint that cannot be read, or fits another model
├── UnsupportedError          a device, dtype or quantisation that this machine or model does not offer
├── StorageError              a folder or disk that cannot be written
├── ConfigError               a config that cannot be used
├── DataError                 training or evaluation data that is missing or damaged
├── TrainingDivergedError     training whose loss is beyond repair
├── EndpointError             a language model behind an address that fails or answers nonsense
└── ContextFullError          a single turn longer than the LLM's context
```
"""

from __future__ import annotations


class BlspError(Exception):
    """Base of every error that blsp raises on purpose.

    Args:
        message: One line that names the thing and its value.
        hint: The exact command or step that helps, if there is one.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class AudioError(BlspError):
    """Audio that cannot be read or used."""


class NoSpeechError(AudioError):
    """Audio without speech in it."""


class ForeignSpeechError(AudioError):
    """Speech in a language that the adapter does not know."""


class ModelNotFoundError(BlspError):
    """Weights that are not there and cannot be had."""


class DownloadError(ModelNotFoundError):
    """The network or a registry failed."""


class ChecksumError(ModelNotFoundError):
    """A file is not what it should be."""


class CheckpointError(BlspError):
    """A checkpoint that cannot be read, or that fits another model."""


class UnsupportedError(BlspError):
    """A device, dtype or quantisation that this machine or model does not offer."""


class StorageError(BlspError):
    """A folder or disk that cannot be written."""


class ConfigError(BlspError):
    """A config that cannot be used."""


class DataError(BlspError):
    """Training or evaluation data that is missing or damaged."""


class TrainingDivergedError(BlspError):
    """Training whose loss is beyond repair: too many steps in a row had to be skipped."""


class EndpointError(BlspError):
    """A language model behind an address that fails, or answers what cannot be read."""


class ContextFullError(BlspError):
    """A single turn longer than the LLM's context."""
