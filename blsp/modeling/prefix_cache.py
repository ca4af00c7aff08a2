"""Keys and values of constant prompts, computed once for as long as they are in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from blsp.modeling.packed.fast_decoder import FastDecoder, reason_against

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel

MAX_PREFIXES = 4
"""Constant prompts whose keys and values are kept: those of a few behaviours, for hearing and for reading."""


class PrefixCache:
    """What an LLM has read of prompts with which many begin. It follows the LLM's weights, their type and device.

    Args:
        model: Whose LLM it is.
    """

    def __init__(self, model: BlspModel) -> None:
        self._model = model
        self._layers: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        self._roots: dict[tuple[int, ...], tuple[FastDecoder, Tensor]] = {}
        self._mark = model.llm_mark()

    def read(self, ids: tuple[int, ...], n_rows: int) -> DynamicCache | None:
        """Keys and values of what all rows begin with, computed once for as long as it is in use; None for nothing.

        Gradients do not flow into them: they are not for an LLM that `trains_llm`.
        """
        if not ids:
            return None
        layers = None if self._model.llm_mark() != self._mark else self._layers.get(ids)
        if layers is None:
            cache = DynamicCache()
            # The first call may be in inference mode, whose tensors are of no use to training.
            with torch.inference_mode(False), torch.no_grad():
                self._model.run_llm(self._model.embed_tokens(ids)[None], cache, logits_to_keep=1)
            layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._keep(self._layers, ids, layers)
        return DynamicCache(
            [(keys.expand(n_rows, -1, -1, -1), values.expand(n_rows, -1, -1, -1)) for keys, values in layers]
        )

    def read_root(self, ids: tuple[int, ...]) -> tuple[FastDecoder | DynamicCache, Tensor]:
        """A prompt that was read, to which more may be added, and what the output layer gets after it, float (E,).

        It is kept as what `read` reads is, unless the LLM is being trained.
        """
        if reason_against(self._model.llm) is not None:
            return self._read_root_by_transformers(ids)
        if self._model.llm_mark() != self._mark or ids not in self._roots or self._model.trains_llm:
            decoder = FastDecoder(self._model.llm)
            embeds, positions = self._model.embed_tokens(ids), torch.arange(len(ids), device=self._model.device)
            states = decoder.read_apart(embeds, positions, positions[:, None] >= positions)
            if self._model.trains_llm:
                return decoder, states[-1]
            self._keep(self._roots, ids, (decoder, states[-1]))
        decoder, root = self._roots[ids]
        return decoder.copy(), root

    def _read_root_by_transformers(self, ids: tuple[int, ...]) -> tuple[DynamicCache, Tensor]:
        cache = DynamicCache()
        with torch.no_grad():
            return cache, self._model.last_states(self._model.embed_tokens(ids)[None], cache)[0, -1]

    def _keep(self, kept: dict[tuple[int, ...], Any], ids: tuple[int, ...], what: Any) -> None:
        """Keep what was read of a prompt, and let go what was used longest ago."""
        if (mark := self._model.llm_mark()) != self._mark:
            self._layers.clear()
            self._roots.clear()
            self._mark = mark
        kept.pop(ids, None)
        kept[ids] = what  # the latest stands last
        if len(kept) > MAX_PREFIXES:
            del kept[next(iter(kept))]
