"""What an LLM expected at each token of an answer that it wrote: what distillation teaches, kept beside the answer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from blsp.errors import DataError

_ID, _LOG_PROB = np.dtype("<u4"), np.dtype("<f2")


@dataclass(frozen=True, eq=False)
class TopTokens:
    """The K likeliest next tokens at each of the N tokens of a greedy answer, the likeliest first.

    What they leave of the probability belongs to all others together.
    """

    ids: npt.NDArray[np.int64]
    """Token ids, int64 (N, K)."""
    log_probs: npt.NDArray[np.float32]
    """Their log probabilities, float32 (N, K)."""

    def covers(self, answer_ids: Sequence[int]) -> bool:
        """Whether they are those of a greedy answer, or of a longer one that begins so.

        Of tokens that were equally likely, as happens in bfloat16, any may have been written.
        """
        n = len(answer_ids)
        if n > len(self.ids):
            return False
        written = self.ids[:n] == np.asarray(answer_ids, np.int64)[:, None]
        return bool((written & (self.log_probs[:n] == self.log_probs[:n, :1])).any(axis=1).all())

    def encode(self) -> str:
        """As a line of a file holds it: base64 of N, the ids and the log probabilities in half precision."""
        n = np.asarray([len(self.ids)], _ID)
        data = n.tobytes() + self.ids.astype(_ID).tobytes() + self.log_probs.astype(_LOG_PROB).tobytes()
        return base64.b64encode(data).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> TopTokens:
        """Read what `encode` wrote.

        Raises:
            DataError: It is damaged.
        """
        try:
            data = base64.b64decode(text, validate=True)
            n = int(np.frombuffer(data, _ID, 1)[0])
            size = (len(data) - _ID.itemsize) // (_ID.itemsize + _LOG_PROB.itemsize)
            ids = np.frombuffer(data, _ID, size, _ID.itemsize).reshape(n, -1)
            log_probs = np.frombuffer(data, _LOG_PROB, size, _ID.itemsize * (1 + size)).reshape(n, -1)
        except ValueError as error:
            raise DataError(f"`top_tokens` must be what a behaviours stage wrote, but is damaged: {error}.") from error
        return cls(ids.astype(np.int64), log_probs.astype(np.float32))
