"""Take an adapter that reads tokens to another LLM: its layers stay, a projection translates what they give.

The projection is the one under which the token embeddings that both LLMs share are scored alike (ridge
regression). What comes out reads a little; training goes on from there (stage `ctc`).

Run: python -m recipes.carry_over_adapter runs/embedded/start --llm FOLDER
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from blsp.modeling.adapter import Adapter
from blsp.models.checkpoint import save_adapter
from blsp.models.load import load_model
from blsp.models.spec import resolve, write_checkpoint_spec

RIDGE = 1e-3
"""Weight of the projection's own square, relative to the mean square of what it is fitted to."""


def shared_tokens(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Ids of equal tokens in two byte-level vocabularies, each int64 (N,)."""
    known = old.get_vocab()
    pairs = [(known[token], i) for token, i in new.get_vocab().items() if token in known]
    ids = torch.tensor(pairs, dtype=torch.int64)
    return ids[:, 0], ids[:, 1]


def fit_projection(old: Tensor, new: Tensor) -> tuple[Tensor, float]:
    """The projection that scores tokens by the new embeddings as they were scored by the old ones.

    Args:
        old: Unit token embeddings of the old LLM, float (N, W).
        new: Those of the same tokens in the new LLM, float (N, E).

    Returns:
        Weight, float (E, W), and the share of the old embeddings' variance that it explains.
    """
    gram = new.T @ new
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    weight = torch.linalg.solve(gram + ridge, new.T @ old)  # (E, W)
    rest = (new @ weight - old).square().sum() / (old - old.mean(dim=0)).square().sum()
    return weight, 1 - float(rest)


def carry_over(adapter: Adapter, weight: Tensor) -> Adapter:
    """The adapter with a projection to an LLM of another width; `weight` is float (E, W)."""
    config = replace(adapter.config, llm_dim=weight.size(0), width=adapter.config.llm_dim)
    moved = Adapter(config)
    state = adapter.state_dict()
    assert moved.projection is not None
    state["projection.weight"], state["projection.bias"] = weight, torch.zeros(weight.size(0))
    # The shortest blank that scores every frame as the old one did.
    state["ctc.blank"] = weight @ torch.linalg.solve(weight.T @ weight, state["ctc.blank"].float())
    moved.load_state_dict(state)
    return moved.eval()


def main() -> None:
    """Write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="tiny", help="model whose adapter is taken")
    parser.add_argument("--llm", required=True, help="folder or hub id of the LLM that it is taken to")
    arguments = parser.parse_args()
    old = load_model(resolve(arguments.model), device="cpu", dtype="float32")
    spec = replace(resolve(arguments.model, llm=arguments.llm), adapter=None)
    new = load_model(spec, device="cpu", dtype="bfloat16", speech=False)
    assert old.adapter is not None
    old_ids, new_ids = shared_tokens(old.tokenizer, new.tokenizer)
    with torch.no_grad():
        old_rows, new_rows = (
            F.normalize(model.llm.get_input_embeddings().weight[ids].float(), dim=1)
            for model, ids in ((old, old_ids), (new, new_ids))
        )
        weight, explained = fit_projection(old_rows, new_rows)
        adapter = carry_over(old.adapter, weight)
    print(f"{len(old_ids)} tokens in common; {explained:.1%} of the old embeddings' variance explained.")
    save_adapter(arguments.out, adapter, metadata={"carried_over_from": arguments.model})
    write_checkpoint_spec(arguments.out, spec)


if __name__ == "__main__":
    main()
