"""Accelerate takes each config that ships, and understands by it what its first line says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.fixture
def with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate refuses bfloat16 where it sees no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


def environment(name: str) -> dict[str, str]:
    """What accelerate launch would tell the processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import launch

    arguments = ["--config_file", str(CONFIGS / name), "-m", "voicechat", "train", "config.yaml"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return dict(launch.prepare_deepspeed_cmd_env(args)[1])
    if args.multi_gpu or args.use_fsdp:
        return dict(launch.prepare_multi_gpu_env(args))
    return dict(launch.prepare_simple_launcher_cmd_env(args)[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single.yaml", {"ACCELERATE_USE_CPU": "False"}),
        ("ddp.yaml", {}),
        ("multi_node.yaml", {}),
        ("fsdp.yaml", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}),
        ("zero2.yaml", {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}),
        ("zero3.yaml", {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}),
    ],
)
@pytest.mark.usefixtures("with_gpus")
def test_accelerate_takes_it(name: str, expected: dict[str, str]) -> None:
    found = environment(name)
    assert {**expected, "ACCELERATE_MIXED_PRECISION": "bf16"}.items() <= found.items()


def test_every_config_is_checked() -> None:
    assert sorted(path.name for path in CONFIGS.iterdir()) == [
        *("ddp.yaml", "fsdp.yaml", "multi_node.yaml", "single.yaml", "zero2.yaml", "zero3.yaml")
    ]
