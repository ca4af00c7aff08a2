"""Names -> models: presets, folders, hub ids of BLSP checkpoints, and parts put together by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blsp.errors import CheckpointError, UnsupportedError
from blsp.models.embedded import EMBEDDED_ENCODERS, EMBEDDED_LLMS
from blsp.models.memory import give_back_memory
from blsp.models.placement import check_quantization, cpu_multiplies_bfloat16, select_device, select_dtype
from blsp.models.spec import EMBEDDED, ModelSpec, adapter_folder, part_path
from blsp.models.transformers_log import quiet_transformers
from blsp.progress import Progress
from blsp.storage import read_json
from blsp.temporaries import temporary_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, WhisperForConditionalGeneration

    from blsp.decoding.sound_detector import SoundDetector
    from blsp.decoding.spoken_language import LanguageDetector
    from blsp.modeling.adapter import Adapter
    from blsp.modeling.encoder import SpeechEncoder
    from blsp.modeling.model import BlspModel
    from blsp.modeling.packed.matrices import Matrices


def load_model(
    spec: ModelSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    speech: bool = True,
    progress: Progress | None = None,
    new_adapter: Callable[[int, int], Adapter] | None = None,
    packed: bool = False,
) -> BlspModel:
    """Load a model, fetching first what is not there.

    Args:
        spec: What to put together, from `resolve`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        quantize: `8bit` or `4bit`: the LLM's weights, by bitsandbytes, on CUDA only.
        speech: Load encoder and adapter; without them the model takes text only (for the cascade).
        progress: Told of downloads as they go on.
        new_adapter: Makes an untrained adapter from the widths of encoder and LLM, in place of a saved one.
        packed: Let a CPU run the LLM by weights in the 4 bits that they came in, where they did and with `dtype` auto:
            several times as fast and small, but for use only; nothing can be trained through them.

    Raises:
        ModelNotFoundError: A part is not there, among them the adapter that nobody has published.
        DownloadError: A part could not be fetched.
        CheckpointError: A part cannot be read, or the adapter fits another model.
        StorageError: The cache cannot be written, or the disk is full.
        UnsupportedError: The device, dtype or quantisation is not to be had on this machine.
    """
    target = select_device(device)
    kind = select_dtype(dtype, target)
    check_quantization(quantize, target)
    # The adapter comes first: it is small, and what most likely is missing.
    adapter = _load_adapter(spec) if speech and new_adapter is None else None
    if speech:
        part_path(spec.encoder, EMBEDDED_ENCODERS, progress, model=spec.name)
    llm_folder = part_path(spec.llm, EMBEDDED_LLMS, progress, model=spec.name)
    packed = packed and dtype == "auto" and quantize is None and target.type == "cpu"
    matrices = _read_matrices(spec, llm_folder) if packed else None  # before transformers, whose import takes seconds

    from blsp.decoding.speech_reader import make_model
    from blsp.decoding.spoken_language import SpokenLanguage
    from blsp.instructions import VOICE_ASSISTANT

    encoder = _load_encoder(spec, progress) if speech else None
    with quiet_transformers():
        tokenizer = _load_tokenizer(llm_folder)
        where = _Placement(target, kind, quantize, chosen=dtype != "auto")
        llm = _load_llm(spec, llm_folder, where, matrices, packed=packed)
    if encoder is not None and new_adapter is not None:
        adapter = new_adapter(encoder.width, int(llm.get_input_embeddings().embedding_dim))
    if encoder is not None and adapter is not None:
        _check_widths(spec, encoder, adapter, llm)
        encoder, adapter = encoder.to(target, kind), adapter.to(target, kind)
    template = _make_template(spec, tokenizer)
    language = None
    if encoder is not None:
        language = SpokenLanguage(encoder, partial(_load_language_detector, spec), partial(_load_sound_detector, spec))
    give_back_memory()
    model = make_model(encoder, adapter, llm, tokenizer, template, language)
    if spec.llm == EMBEDDED and spec.template == "chat":  # SmolLM2 answers worse for it
        model.assistant = VOICE_ASSISTANT
    return model


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
    folder = part_path(spec.encoder, EMBEDDED_ENCODERS, progress, model=spec.name)
    with quiet_transformers():
        with _readable(folder):
            model, info = WhisperForConditionalGeneration.from_pretrained(
                folder, dtype=kind, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        _check_complete(folder, info)
        tokenizer = _load_tokenizer(folder)
    return model.to(target).eval(), tokenizer


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
    from blsp.models.checkpoint import load_adapter

    return load_adapter(adapter_folder(spec))


def _load_encoder(spec: ModelSpec, progress: Progress | None) -> SpeechEncoder:
    """Whisper's encoder alone: the decoder, two thirds of the model, is never read."""
    import torch
    from safetensors import safe_open
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from blsp.modeling.encoder import SpeechEncoder

    folder = part_path(spec.encoder, EMBEDDED_ENCODERS, progress, model=spec.name)
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


def _load_language_detector(spec: ModelSpec) -> LanguageDetector | None:
    """What of Whisper's decoder tells languages apart."""
    from blsp.decoding.spoken_language import load_language_detector

    folder = part_path(spec.encoder, EMBEDDED_ENCODERS, model=spec.name)
    with _readable(folder), quiet_transformers():
        return load_language_detector(folder)


def _load_sound_detector(spec: ModelSpec) -> SoundDetector | None:
    """What of Whisper's decoder tells words from other sounds."""
    from blsp.decoding.sound_detector import load_sound_detector

    folder = part_path(spec.encoder, EMBEDDED_ENCODERS, model=spec.name)
    with _readable(folder), quiet_transformers():
        return load_sound_detector(folder)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    with _readable(folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


@dataclass(frozen=True)
class _Placement:
    """Where an LLM computes, and in which numbers."""

    device: torch.device
    dtype: torch.dtype
    quantize: str | None
    chosen: bool
    """Whether the user said which dtype."""


def _read_matrices(spec: ModelSpec, folder: Path) -> Matrices | None:
    """The matrices of packed weights, which another thread begins to lay out where that is known to be fastest.

    None where they are not packed, or have to be changed.
    """
    from blsp.modeling.packed.cpu_choice import apply_to_linears
    from blsp.modeling.packed.matrices import is_packed, read_matrices
    from blsp.models.cpu_tuning import kept_choice

    if not is_packed(folder) or spec.lora is not None:
        return None
    with _readable(folder):
        matrices = read_matrices(folder)
    if (choice := kept_choice(folder.name)) is not None:
        apply_to_linears(matrices.linears, choice)
    return matrices


def _load_llm(
    spec: ModelSpec, folder: Path, where: _Placement, matrices: Matrices | None, *, packed: bool
) -> PreTrainedModel:
    from blsp.modeling.packed.later import when_laid_out
    from blsp.modeling.packed.llm import load_packed
    from blsp.modeling.packed.matrices import is_packed, read_matrices
    from blsp.modeling.packed.packing import pack_llm
    from blsp.models.cpu_tuning import tune

    if matrices is not None:
        with _readable(folder):
            llm = load_packed(matrices)
        tune(llm, folder.name, again=lambda: load_packed(read_matrices(folder)))
        when_laid_out(give_back_memory)
        return llm
    llm = _load_dense_llm(folder, where) if not is_packed(folder) else _unpack_llm(folder, where)
    _apply_lora(spec, llm, where.quantize)
    if packed and pack_llm(llm):
        tune(llm, folder.name)
    return llm


def _unpack_llm(folder: Path, where: _Placement) -> PreTrainedModel:
    """The dense LLM of a folder of packed weights: in bfloat16 where the CPU is good at it, for half the memory."""
    import torch

    from blsp.modeling.packed.llm import load_dense

    if where.quantize is not None:
        with temporary_folder("dense-", folder.parent) as temporary:
            with _readable(folder):
                load_dense(folder, torch.bfloat16).save_pretrained(temporary)
            return _load_dense_llm(temporary, where)
    dtype = where.dtype
    if where.device.type == "cpu" and not where.chosen and cpu_multiplies_bfloat16():
        dtype = torch.bfloat16
    with _readable(folder):
        llm: Any = load_dense(folder, dtype)
    return llm.to(where.device)  # type: ignore[no-any-return]


def _load_dense_llm(folder: Path, where: _Placement) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: dict[str, Any] = {}
    if where.quantize is not None:
        options: dict[str, Any] = {"load_in_8bit": True} if where.quantize == "8bit" else {"load_in_4bit": True}
        if where.quantize == "4bit":
            options["bnb_4bit_compute_dtype"] = where.dtype
        settings = {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": where.device}}
    if read_json(folder / "config.json").get("is_encoder_decoder"):
        raise CheckpointError(f"The LLM must be a decoder-only model, but {folder} holds an encoder and a decoder.")
    settings |= {"dtype": where.dtype, "use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    with _readable(folder):
        llm, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    _check_complete(folder, info)
    if where.quantize is None:
        llm = llm.to(where.device)
    frozen: PreTrainedModel = llm.requires_grad_(False).eval()
    return frozen


def _apply_lora(spec: ModelSpec, llm: PreTrainedModel, quantize: str | None) -> None:
    if spec.lora is None:
        return
    from blsp.models.lora_weights import merge_lora

    if quantize is not None:
        raise UnsupportedError(
            f"{spec.name} changes the LLM's weights, which cannot be done to weights of {quantize}.",
            hint="Leave out --quantize.",
        )
    merge_lora(llm, Path(spec.lora))


def _check_complete(folder: Path, loading_info: dict[str, Any]) -> None:
    """Refuse weights that transformers would have made up at random."""
    if missing := sorted(loading_info["missing_keys"]):
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors, {missing[0]!r} among them.")


def _check_widths(spec: ModelSpec, encoder: SpeechEncoder, adapter: Adapter, llm: PreTrainedModel) -> None:
    config = adapter.config
    llm_dim = int(llm.get_input_embeddings().embedding_dim)
    if (config.encoder_dim, config.llm_dim) != (encoder.width, llm_dim):
        raise CheckpointError(
            f"The adapter {spec.adapter} joins widths {config.encoder_dim} and {config.llm_dim}, but "
            f"{spec.encoder} has {encoder.width} and {spec.llm} has {llm_dim}.",
            hint="Give an adapter trained for this pair with --adapter"
            + (f", or its LLM with --llm ({', '.join(EMBEDDED_LLMS)})." if spec.llm in EMBEDDED_LLMS else "."),
        )


def _make_template(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> Any:
    from blsp.modeling.prompt import ChatPromptTemplate, PaperPromptTemplate

    if spec.template == "paper":
        return PaperPromptTemplate(tokenizer)
    return ChatPromptTemplate(tokenizer)
