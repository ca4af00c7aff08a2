"""One conversation through a Llama-like LLM, without the work that a token does not need.

transformers builds masks, looks up caches and copies all keys and values for each token; for a small LLM on a CPU that
takes as long as its arithmetic. Here keys and values stand in buffers with room to grow, and a token needs no mask.

Shapes:
    Q new positions, P positions in all, E width, H query heads, K key-value heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from blsp.modeling.packed.linear import PackedLinear
from blsp.modeling.packed.step import PackedStep, can_step

KNOWN_TYPES = frozenset({"llama", "mistral", "qwen2"})
"""What transformers calls the architectures that are computed here."""
_FIXED_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Of the others, the angles depend on how long the text is by now."""
_ROOM = 256
"""Positions by which the buffers grow, at least."""


class FastDecoder:
    """Reads one row of embeddings after another; the same scores as the LLM of transformers whose layers it uses.

    Args:
        llm: The LLM; its weights are used where they are.

    Raises:
        ValueError: Its architecture is not among `KNOWN_TYPES`, or it does something that is not computed here.
    """

    def __init__(self, llm: PreTrainedModel) -> None:
        if (reason := reason_against(llm)) is not None:
            raise ValueError(reason)
        config = llm.config
        self._n_heads, self._n_kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self._eps = float(config.rms_norm_eps)
        self._llm: Any = llm
        sizes = self._n_heads, self._n_kv_heads, self._head_dim, self._eps
        self._step = PackedStep(llm, *sizes) if can_step(llm) else None
        self.length = 0
        """Positions read."""
        self._state: Tensor | None = None
        self._make_buffers(0)

    def _make_buffers(self, positions: int) -> None:
        """Empty buffers of the type and on the device that the LLM has now."""
        weight = self._llm.model.norm.weight
        shape = (1, self._n_kv_heads, positions, self._head_dim)
        self._keys, self._values = ([weight.new_empty(shape) for _ in self._llm.model.layers] for _ in range(2))
        cos, sin = self._llm.model.rotary_emb(weight, torch.arange(positions, device=weight.device)[None])
        self._cos, self._sin = cos[0], sin[0]

    def crop(self, length: int, state: Tensor | None = None) -> None:
        """Forget all but the first `length` positions; with none, the LLM may have been moved or changed.

        Args:
            length: Positions that stay.
            state: What the output layer got after them, float (E,), where it is known.
        """
        if length < self.length:
            self._state = state
        self.length = min(self.length, length)
        if not self.length:
            self._make_buffers(0)

    @torch.inference_mode()
    def read(self, embeds: Tensor, check: Callable[[], None] | None = None) -> Tensor:
        """Read on.

        Args:
            embeds: float (Q, E).
            check: Called before each layer; may raise, and then nothing was read.

        Returns:
            Scores of what comes next, float (V,).
        """
        start, stop = self.length, self.length + len(embeds)
        self._make_room(stop)
        rotation = self._cos[start:stop], self._sin[start:stop]
        if self._step is not None and len(embeds) == 1:
            return self._read_row(self._step, embeds, rotation, check)
        mask = _causal(len(embeds), start, embeds.device) if len(embeds) > 1 and start else None
        x = self._through_layers(embeds, rotation, mask, check)
        self._state = self._normed(x[-1:], self._llm.model.norm.weight)[0]
        scores: Tensor = self._llm.lm_head(self._state[None])[0]
        return scores

    @torch.inference_mode()
    def read_apart(self, embeds: Tensor, positions: Tensor, is_seen: Tensor) -> Tensor:
        """Read on by what need not follow each other, such as several ways to go on.

        Args:
            embeds: float (Q, E).
            positions: At which each stands, int64 (Q,).
            is_seen: What each attends to of all that was read, these among it, bool (Q, P).

        Returns:
            What the output layer would get, float (Q, E).
        """
        self._make_room(max(self.length + len(embeds), int(positions.max()) + 1))
        rotation = self._cos[positions], self._sin[positions]
        return self._normed(self._through_layers(embeds, rotation, is_seen), self._llm.model.norm.weight)

    def keep(self, length: int, rows: Sequence[int], state: Tensor) -> None:
        """Forget all after the first `length` positions but some, which from now on follow each other.

        Args:
            length: Positions that stay as they are.
            rows: In which order of reading the others stand, from 0. Each was read at the position that it gets.
            state: What the output layer got after the last of them, float (E,).
        """
        chosen = torch.tensor(rows, dtype=torch.int64, device=self._cos.device)
        for buffer in [*self._keys, *self._values]:
            buffer[:, :, length : length + len(rows)] = buffer[:, :, chosen]
        self.length = length + len(rows)
        self._state = state

    @property
    def state(self) -> Tensor:
        """What the output layer got after what `read` read last, float (E,).

        Raises:
            ValueError: Nothing was read.
        """
        if self._state is None:
            raise ValueError("`state` needs something that was read, but nothing was.")
        return self._state

    def copy(self) -> FastDecoder:
        """A decoder that has read the same."""
        other = copy(self)
        other._make_buffers(self.length + _ROOM)
        for theirs, mine in zip([*other._keys, *other._values], [*self._keys, *self._values]):
            theirs[:, :, : self.length] = mine[:, :, : self.length]
        return other

    def _through_layers(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        check: Callable[[], None] | None = None,
    ) -> Tensor:
        """What the last layer passes on, float (Q, E), with a mask of what is seen, bool (Q, P); None: all before."""
        for i, layer in enumerate(self._llm.model.layers):
            if check is not None:
                check()
            x = x + self._attend(i, layer.self_attn, self._normed(x, layer.input_layernorm.weight), rotation, mask)
            x = x + layer.mlp(self._normed(x, layer.post_attention_layernorm.weight))
        self.length += len(x)
        return x

    def _read_row(
        self, step: PackedStep, embeds: Tensor, rotation: tuple[Tensor, Tensor], check: Callable[[], None] | None
    ) -> Tensor:
        x, stop = embeds.clone(), self.length + 1
        cos, sin = rotation
        left, right = sin.chunk(2, dim=1)
        rotation = cos, torch.cat([-left, right], dim=1)
        for i, (keys, values) in enumerate(zip(self._keys, self._values)):
            if check is not None:
                check()
            x = step.attend(i, x, rotation, keys[:, :, :stop], values[:, :, :stop])
        self.length, self._state = stop, self._normed(x, self._llm.model.norm.weight)[0]
        return step.scores(x)

    def _attend(self, i: int, layer: Any, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        n, start, stop = len(x), self.length, self.length + len(x)
        query, key, value = (
            projection(x).view(n, -1, self._head_dim).transpose(0, 1)  # (Q, H D) -> (H, Q, D)
            for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        self._keys[i][0, :, start:stop] = _rotate(key, *rotation)
        self._values[i][0, :, start:stop] = value
        found = F.scaled_dot_product_attention(
            _rotate(query, *rotation)[None],
            self._keys[i][:, :, :stop],
            self._values[i][:, :, :stop],
            attn_mask=mask,
            is_causal=n > 1 and mask is None,
            enable_gqa=True,
        )  # (1, H, Q, D)
        y: Tensor = layer.o_proj(found[0].transpose(0, 1).reshape(n, -1))
        return y

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._eps)

    def _make_room(self, positions: int) -> None:
        room = self._keys[0].size(2)
        if positions <= room:
            return
        old = [*self._keys, *self._values]
        self._make_buffers(max(positions, room + max(_ROOM, room // 2)))
        for before, now in zip(old, [*self._keys, *self._values]):
            now[:, :, : self.length] = before[:, :, : self.length]


def reason_against(llm: PreTrainedModel) -> str | None:
    """Why an LLM cannot be computed here, as a sentence; None where it can."""
    config: Any = llm.config
    if config.model_type not in KNOWN_TYPES:
        return f"`llm` must be of a type of {sorted(KNOWN_TYPES)}, but is {config.model_type} instead."
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return "`llm` must attend to all positions in every layer, but has layers that do not."
    rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type not in _FIXED_ROPE_TYPES:
        return f"`llm` must rotate each position by the same angles always, but its rotation is {rope_type!r} instead."
    if llm.device.type not in ("cpu", "cuda"):
        return f"`llm` must be on a CPU or a CUDA device, but is on {llm.device.type} instead."
    linears = [type(part) for layer in llm.model.layers for part in layer.modules() if hasattr(part, "in_features")]
    if other := set(linears) - {nn.Linear, PackedLinear}:
        return f"`llm` must have plain linear layers, but has {sorted(kind.__name__ for kind in other)} instead."
    return None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: (H, Q, D) by (Q, D). Source: arXiv 2104.09864, the halves apart as in transformers."""
    left, right = x.chunk(2, dim=2)
    return x * cos + torch.cat([-right, left], dim=2) * sin


def _causal(n: int, start: int, device: torch.device) -> Tensor:
    """Which of the positions each of `n` new ones may look at, bool (Q, P)."""
    return torch.ones(n, start + n, dtype=torch.bool, device=device).tril(diagonal=start)
