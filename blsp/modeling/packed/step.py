"""One position through the packed layers of a Llama-like LLM, with as few operations as it takes.

A matrix of a small LLM is multiplied in the time that torch takes to begin a dozen operations.

Shapes:
    P positions in all, E width, H query heads, K key-value heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blsp.modeling.packed.linear import PackedLinear


class PackedStep:
    """What `FastDecoder.read` does to a row, for an LLM all of whose matrices are packed.

    Args:
        llm: The LLM.
        n_heads: H.
        n_kv_heads: K.
        head_dim: D.
        eps: Of the norms.
    """

    def __init__(self, llm: Any, n_heads: int, n_kv_heads: int, head_dim: int, eps: float) -> None:
        self._n_heads, self._n_kv_heads, self._head_dim, self._eps = n_heads, n_kv_heads, head_dim, eps
        self._layers = [_Layer(layer) for layer in llm.model.layers]
        self._norm, self._head = llm.model.norm, llm.lm_head

    def attend(self, i: int, x: Tensor, rotation: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> Tensor:
        """Layer `i`'s attention and feed-forward layer, added to x.

        Args:
            i: Which layer.
            x: float32 (1, E); changed in place.
            rotation: Cosines and sines of the position, float32 (1, D); those of the first half of the sines negated.
            keys: float32 (1, K, P, D), those of the last position still to be written.
            values: Likewise.
        """
        layer, n_heads, head_dim = self._layers[i], self._n_heads, self._head_dim
        normed = self._normed(x, layer.attention_norm)
        heads = torch.cat([layer.query.row(normed), layer.key.row(normed)], dim=1).float()
        if layer.bias is not None:
            heads += layer.bias
        heads = heads.view(-1, head_dim)  # (H + K, D)
        swapped = heads.view(-1, 2, head_dim // 2).flip(1).view(-1, head_dim)
        heads = torch.addcmul(heads * rotation[0], swapped, rotation[1])
        keys[0, :, -1] = heads[n_heads:]
        value = layer.value.row(normed)
        values[0, :, -1] = (value if layer.value.bias is None else value + layer.value.bias).view(-1, head_dim)
        query = heads[:n_heads].view(self._n_kv_heads, -1, head_dim)  # (K, H / K, D)
        weights = torch.baddbmm(query.new_zeros(1), query, keys[0].mT, beta=0, alpha=head_dim**-0.5).softmax(dim=2)
        x += layer.output.row(torch.bmm(weights, values[0]).view(1, -1))
        normed = self._normed(x, layer.feed_forward_norm)
        x += layer.down.row(F.silu(layer.gate.row(normed).float()).mul_(layer.up.row(normed)))
        return x

    def scores(self, x: Tensor) -> Tensor:
        """Scores of what comes next: float32 (1, E) -> (V,)."""
        found: Tensor = self._head(self._normed(x, self._norm.weight))[0]
        return found

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of one row: float32 (1, E) -> (1, E)."""
        row = x[0]
        scale = (float(torch.dot(row, row)) / len(row) + self._eps) ** -0.5
        return (x * weight).mul_(scale)


class _Layer:
    """The matrices of a layer by their short names: looking them up in a module takes longer than some operations."""

    def __init__(self, layer: Any) -> None:
        attention, feed_forward = layer.self_attn, layer.mlp
        self.query: PackedLinear = attention.q_proj
        self.key: PackedLinear = attention.k_proj
        self.value: PackedLinear = attention.v_proj
        self.output: PackedLinear = attention.o_proj
        self.gate: PackedLinear = feed_forward.gate_proj
        self.up: PackedLinear = feed_forward.up_proj
        self.down: PackedLinear = feed_forward.down_proj
        self.attention_norm: Tensor = layer.input_layernorm.weight
        self.feed_forward_norm: Tensor = layer.post_attention_layernorm.weight
        biases = [self.query.bias, self.key.bias]
        self.bias = None if biases[0] is None else torch.cat(biases)  # type: ignore[arg-type]


def _has_row(linear: PackedLinear) -> bool:
    """Whether it multiplies a row other than many."""
    return linear.few_rows != "as many" or linear.blocked is not None


def can_step(llm: Any) -> bool:
    """Whether `PackedStep` computes all that an LLM does to one row."""
    linears = [part for layer in llm.model.layers for part in layer.modules() if hasattr(part, "in_features")]
    if not all(isinstance(part, PackedLinear) and _has_row(part) for part in linears):
        return False
    if not isinstance(llm.lm_head, PackedLinear):
        return False
    if llm.model.norm.weight.dtype != torch.float32 or llm.config.hidden_act != "silu":
        return False
    biased = [layer.self_attn for layer in llm.model.layers]
    others = [part for layer in llm.model.layers for part in (layer.self_attn.o_proj, *layer.mlp.children())]
    if any(getattr(part, "bias", None) is not None for part in others):
        return False
    return all((a.q_proj.bias is None) == (a.k_proj.bias is None) for a in biased)
