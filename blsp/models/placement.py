"""Where a model computes and in which numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from blsp.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal["8bit", "4bit"]
DEVICES, DTYPES, QUANTIZATIONS = get_args(Device), get_args(Dtype), get_args(Quantization)


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


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 matrices (AVX512_BF16 or AMX) that torch uses.

    Where it has not, bfloat16 is a hundred times slower than float32.
    """
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    asks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return capability.startswith("AVX512") and any(ask is not None and ask() for ask in asks)


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
