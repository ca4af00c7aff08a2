"""An LLM that reads many ways to go on at once: a tree of tokens after one prompt, what they share read once.

Shapes:
    P positions of the prompt, N nodes of the tree, Q new ones, E width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from blsp.modeling.packed.fast_decoder import KNOWN_TYPES, FastDecoder
from blsp.modeling.packed.linear import PackedLinear

if TYPE_CHECKING:
    from blsp.modeling.model import BlspModel

Path = tuple[int, ...]
"""Token ids after the prompt."""


class LlmTree:
    """What an LLM expects after a prompt and each of some paths.

    Each pass reads all new nodes as one row, in which a node attends to the prompt and to its ancestors. A CPU takes
    hardly longer for sixteen nodes than for one: the weights are read once. Of an LLM that is not known to attend as
    it is told to, each new path is read from the root, as a row of its own.

    Args:
        model: The model.
        prompt: Token ids, at least one; or what has read it, and would read the tree behind it.
        openings: What is read and expected in the place of some tokens where they come first: a text begins without
            the blank that stands before its other words.

    Source: tree attention, as in SpecInfer (arXiv 2305.09781).
    """

    def __init__(
        self, model: BlspModel, prompt: Sequence[int] | FastDecoder, openings: Mapping[int, int] | None = None
    ) -> None:
        if not isinstance(prompt, FastDecoder) and not prompt:
            raise ValueError("`prompt` must hold at least one token, but is empty instead.")
        self._model = model
        self._openings = openings or {}
        self._attends_as_told = model.llm.config.model_type in KNOWN_TYPES
        self._ancestors: list[list[int]] = []  # of each node, itself among them
        self._nodes: dict[Path, int] = {}
        self._found: list[Tensor] = []  # states before the output layer, float (E,), or scores of all tokens, (V,)
        if isinstance(prompt, FastDecoder):
            self._begin(prompt, prompt.length, prompt.state)
        elif self._attends_as_told:
            decoder, root = model.prefixes.read_root(tuple(prompt))
            self._begin(decoder, len(prompt), root)
        else:
            self._known = () if model.trains_llm else tuple(prompt[:-1])
            self._unread = tuple(prompt[len(self._known) :])
            self.read([()])

    def _begin(self, read_so_far: FastDecoder | DynamicCache, n_prompt: int, root: Tensor) -> None:
        self._read_so_far, self._n_prompt = read_so_far, n_prompt
        self._nodes[()] = 0
        self._found.append(root)

    @torch.inference_mode()
    def read(self, paths: Sequence[Path]) -> None:
        """Read some paths from the root, in one pass; what is known of them is not read again."""
        paths = [self._as_read(path) for path in paths]
        new = {path[:end]: None for path in paths for end in range(len(path) + 1) if path[:end] not in self._nodes}
        if new and self._attends_as_told:
            self._read_tree(list(new))
        elif new:
            self._read_rows(list(new))

    @torch.inference_mode()
    def log_probs(self, paths: Sequence[Path], tokens: Tensor) -> Tensor:
        """Log probabilities of some tokens, among them alone, after paths that were read.

        Args:
            paths: N paths.
            tokens: Token ids, int64 (C,).

        Returns:
            float64 (N, C), on the CPU.
        """
        found = torch.stack([self._found[self._nodes[self._as_read(path)]] for path in paths])
        scores = self._scores(found, tokens)
        if self._openings and (first := [row for row, path in enumerate(paths) if not path]):
            opening = torch.tensor([self._openings.get(token, token) for token in tokens.tolist()])
            scores[first] = self._scores(found[first], opening)
        return scores.double().log_softmax(dim=1).cpu()

    @torch.inference_mode()
    def adopt(self, ids: Sequence[int]) -> tuple[int, Tensor]:
        """Leave what has read the prompt with the prefix of `ids` that was read too, and nothing else.

        The tree must not be read on afterwards.

        Args:
            ids: Token ids after the prompt, as the LLM reads them.

        Returns:
            How many of them were read, and what the output layer gets after them, float (E,).

        Raises:
            ValueError: The LLM of the tree is not read by a `FastDecoder`.
        """
        if not self._attends_as_told or not isinstance(self._read_so_far, FastDecoder):
            raise ValueError("`adopt` needs an LLM that `FastDecoder` reads, but has another.")
        n = next(n for n in range(len(ids), -1, -1) if tuple(ids[:n]) in self._nodes)
        nodes = [self._nodes[tuple(ids[:end])] for end in range(n + 1)]
        state = self._found[nodes[-1]]
        self._read_so_far.keep(self._n_prompt, [self._n_prompt + node - 1 for node in nodes[1:]], state)
        return n, state

    def _as_read(self, path: Path) -> Path:
        return (self._openings.get(path[0], path[0]), *path[1:]) if path else path

    def _scores(self, found: Tensor, tokens: Tensor) -> Tensor:
        return output_scores(self._model.llm, found, tokens) if self._attends_as_told else found[:, tokens]

    def _read_tree(self, paths: Sequence[Path]) -> None:
        first = len(self._ancestors)
        for path in paths:
            above = self._ancestors[self._nodes[path[:-1]] - 1] if len(path) > 1 else []
            self._nodes[path] = 1 + len(self._ancestors)  # the root, which is part of the prompt, comes first
            self._ancestors.append([*above, len(self._ancestors)])
        is_seen = torch.zeros(len(paths), self._n_prompt + len(self._ancestors), dtype=torch.bool)
        is_seen[:, : self._n_prompt] = True
        for row, above in enumerate(self._ancestors[first:]):
            is_seen[row, torch.tensor(above) + self._n_prompt] = True
        tokens = [path[-1] for path in paths]
        positions = [self._n_prompt + len(path) - 1 for path in paths]
        self._found += list(self._states(tokens, is_seen, positions))

    def _states(self, tokens: Sequence[int], is_seen: Tensor, positions: Sequence[int]) -> Tensor:
        """Read Q tokens, each with what it sees, bool (Q, P + N): what the output layer would get, float (Q, E)."""
        embeds = self._model.embed_tokens(tokens)
        at = torch.tensor(positions, device=embeds.device)
        if isinstance(self._read_so_far, FastDecoder):
            return self._read_so_far.read_apart(embeds, at, is_seen.to(embeds.device))
        closed = torch.zeros(is_seen.shape, dtype=embeds.dtype)
        closed = closed.masked_fill(~is_seen, torch.finfo(embeds.dtype).min)
        return self._model.last_states(
            embeds[None],
            self._read_so_far,
            attention_mask=closed[None, None].to(embeds.device),
            position_ids=at[None],
        )[0]

    def _read_rows(self, paths: Sequence[Path]) -> None:
        new = set(paths)
        parents = {path[:-1] for path in new if path}
        for path in [path for path in paths if path not in parents]:  # what they begin with is read on the way
            embeds = self._model.embed_tokens([*self._unread, *path])[None]
            cache = self._model.prefixes.read(self._known, 1)
            logits: Tensor = self._model.run_llm(embeds, cache).logits[0, len(self._unread) - 1 :]
            for end, scores in enumerate(logits):
                if path[:end] in new and path[:end] not in self._nodes:
                    self._nodes[path[:end]] = len(self._found)
                    self._found.append(scores)


def output_scores(llm: PreTrainedModel, states: Tensor, tokens: Tensor) -> Tensor:
    """Scores that an LLM's output layer gives some tokens (C,), for its last states (N, E): float (N, C)."""
    layer: Any = llm.get_output_embeddings()
    tokens = tokens.to(states.device)
    rows: Tensor = layer.rows(tokens) if isinstance(layer, PackedLinear) else layer.weight[tokens]
    scores = states.to(rows.dtype) @ rows.T
    return scores if layer.bias is None else scores + layer.bias[tokens]
