"""What `voicechat doctor` looks at of the model: torch, its weights, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from blsp.errors import BlspError
from voicechat.check import Check

if TYPE_CHECKING:
    from blsp.models.embedded import EmbeddedPart
    from blsp.models.model_choice import ModelChoice
    from blsp.models.spec import ModelSpec


def check_torch() -> Iterator[Check]:
    """Whether torch loads and computes."""
    try:
        import torch
    except ImportError as error:
        yield Check("torch", "failed", f"torch does not load: {error}", "pip install 'torch>=2.6,<2.14'")
        return
    torch.ones(2, 2) @ torch.ones(2, 2)
    yield Check("torch", "ok", f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def check_accelerator() -> Iterator[Check]:
    """CUDA, MPS, or neither."""
    import torch

    if torch.cuda.is_available():
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Check("accelerator", "ok", f"CUDA: {torch.cuda.get_device_name(0)}, {gigabytes:.0f} GB")
    elif torch.backends.mps.is_available():
        yield Check("accelerator", "ok", "MPS")
    elif torch.version.cuda is not None:
        yield Check(
            "accelerator",
            "warning",
            f"none: torch was built for CUDA {torch.version.cuda}, but finds no GPU; the CPU is used",
            "See that the driver answers: nvidia-smi",
        )
    else:
        yield Check("accelerator", "ok", "none; the CPU is used, which is enough for the embedded models")


def check_model(choice: ModelChoice) -> Iterator[Check]:
    """Weights on this machine, and whether they are what they should be."""
    from blsp.models.embedded import EMBEDDED_ENCODERS, EMBEDDED_LLMS
    from blsp.models.spec import local_parts

    spec = choice.spec()
    paths = local_parts(spec)
    found = [
        _check_part("encoder", spec.name, spec.encoder, paths.encoder, EMBEDDED_ENCODERS.get(spec.encoder)),
        _check_part("llm", spec.name, spec.llm, paths.llm, EMBEDDED_LLMS.get(spec.llm)),
        _check_adapter(spec, paths.adapter),
    ]
    yield from found
    if all(check.status == "ok" for check in found):
        yield Check("offline", "ok", f"the model {spec.name} needs no network any more")
    else:
        yield Check("offline", "failed", f"the model {spec.name} is not complete on this machine", _download(spec.name))


def check_memory(choice: ModelChoice) -> Iterator[Check]:
    """Whether the model has enough memory to run, where it is known what it takes."""
    from blsp.models.memory import available_memory
    from blsp.models.spec import preset_parts

    parts, free = preset_parts(choice.spec()), available_memory()
    needed = max((part.needed_memory for part in parts), default=0)
    if not needed or free is None:
        return
    message = f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed"
    if free >= needed:
        yield Check("memory", "ok", message)
    else:
        smaller = next((part.smaller for part in parts if part.smaller), None)
        cure = "Close other programs" + ("" if smaller is None else f", or take the smaller model: -m {smaller}")
        yield Check("memory", "warning", message, cure)


def _check_part(part: str, model: str, name: str, path: Path | None, embedded: EmbeddedPart | None) -> Check:
    from blsp.models.embedded import part_folder, part_state

    if embedded is not None and (path is None or path == part_folder(embedded)):
        folder = part_folder(embedded)
        state = part_state(embedded, hashes=True)
        if state != "ready":
            return Check(part, "failed", f"{embedded.name} is {state} in {folder}", _download(model))
        return Check(part, "ok", f"{embedded.name}, every hash right: {folder}")
    if path is None:
        return Check(part, "failed", f"{name} is not on this machine", _download(model))
    return Check(part, "ok", f"{name}: {path}")


def _check_adapter(spec: ModelSpec, path: Path | None) -> Check:
    from blsp.models.checkpoint import load_adapter
    from blsp.models.spec import EMBEDDED_ADAPTERS, adapter_folder

    try:
        if path is None and spec.adapter not in {None, *EMBEDDED_ADAPTERS}:
            return Check("adapter", "failed", f"{spec.adapter} is not on this machine", _download(spec.name))
        load_adapter(path or adapter_folder(spec))
    except BlspError as error:
        return Check("adapter", "failed", str(error), error.hint or _download(spec.name))
    return Check("adapter", "ok", f"{spec.adapter}, hash right: {path}")


def _download(model: str) -> str:
    return f"voicechat models download {model}"
