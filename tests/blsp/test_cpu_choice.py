from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from blsp import cpu_tuning
from blsp.modeling import cpu_choice
from blsp.modeling.cpu_choice import CpuChoice, apply, measure, physical_cores
from blsp.modeling.packed_linear import PackedLinear
from blsp.storage import read_json, write_json


@pytest.fixture
def llm() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        PackedLinear.of(torch.randn(32, 64), bits=4, keep=False),
        PackedLinear.of(torch.randn(64, 32), keep=False),
    ]
    return nn.Sequential(*layers)


@pytest.fixture
def slow_ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each way of multiplying takes, or None where torch cannot; others take none."""
    slow: dict[str, Any] = {}
    forward = PackedLinear.forward

    def slowed(linear: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        way = linear.few_rows if len(x) == 1 else linear.many_rows
        if way in slow and slow[way] is None:
            raise NotImplementedError
        time.sleep(slow.get(way, 0.0))
        return forward(linear, x)

    monkeypatch.setattr(PackedLinear, "forward", slowed)
    monkeypatch.setattr(cpu_choice, "cpu_multiplies_bfloat16", lambda: True)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return slow


@pytest.mark.parametrize(
    ("seconds", "few", "many"),
    [
        ({"8 bits": 0.003, "as many": 0.006, "float32": 0.003, "bfloat16": 0.02}, "4 bits", "int8"),
        ({"4 bits": 0.02, "as many": 0.02, "int8": 0.02, "bfloat16": 0.01}, "8 bits", "float32"),
        ({"4 bits": None, "8 bits": 0.02, "int8": None, "float32": 0.01}, "as many", "bfloat16"),
        ({}, "4 bits", "int8"),  # equally fast: the one that takes least memory
    ],
)
def test_the_fastest_way_is_taken(
    llm: nn.Module, slow_ways: dict[str, Any], seconds: dict[str, Any], few: str, many: str
) -> None:
    slow_ways.update(seconds)
    if not seconds:
        slow_ways.update(dict.fromkeys(["4 bits", "8 bits", "as many", "int8", "float32", "bfloat16"], 0.01))
    assert measure(llm) == CpuChoice(few, many, None)  # type: ignore[arg-type]


def test_a_choice_is_applied_to_all_matrices(llm: nn.Module) -> None:
    before = torch.get_num_threads()
    try:
        apply(llm, CpuChoice("8 bits", "float32", 1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert [(layer.few_rows, layer.many_rows) for layer in llm] == [("8 bits", "float32")] * 2  # type: ignore[union-attr]
    x, weight = torch.randn(1, 64), llm[0].values * llm[0].scales[:, None]  # type: ignore[index,union-attr,operator]
    assert float((llm[0](x) - x @ weight.T).norm() / llm[0](x).norm()) < 0.01  # type: ignore[index]


def test_threads_are_measured_unless_the_user_says(llm: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    taken = [1]
    monkeypatch.setattr(cpu_choice, "physical_cores", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(cpu_choice, "_run", lambda linears, n: time.sleep(0.001 * {4: 1}.get(taken[-1], 4)))
    assert measure(llm).threads == 4
    assert set(taken[:-1]) == {1, 2, 4, 8}
    assert taken[-1] == torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert measure(llm).threads is None


def test_cores_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert physical_cores(tmp_path) == 2
    assert physical_cores(tmp_path / "none") is None


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    monkeypatch.setenv("VOICECHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    seen: list[nn.Module] = []

    def measure(llm: nn.Module) -> CpuChoice:
        seen.append(llm)
        return CpuChoice("8 bits", "int8", None)

    monkeypatch.setattr(cpu_choice, "measure", measure)
    return seen


def test_what_was_measured_is_kept(
    llm: nn.Module, measured: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / cpu_tuning.FILE_NAME
    for _ in range(2):
        cpu_tuning.tune(llm, "a")
    assert len(measured) == 1
    assert llm[0].few_rows == "8 bits"  # type: ignore[index,union-attr]
    cpu_tuning.tune(llm, "b")
    monkeypatch.setattr(torch, "__version__", "99.0")
    cpu_tuning.tune(llm, "a")
    assert len(measured) == 3
    facts = read_json(path)
    assert len(facts) == 3
    for damage in ({"few_rows": "3 bits", "many_rows": "int8", "threads": None}, [], {"x": 1}, "text"):
        write_json(path, dict.fromkeys(facts, damage))
        cpu_tuning.tune(llm, "a")
    assert len(measured) == 7
    path.write_text("{")
    cpu_tuning.tune(llm, "a")
    assert len(measured) == 8


def test_a_busy_machine_or_a_cache_that_cannot_be_written_measures_again(
    llm: nn.Module, measured: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setattr("os.getloadavg", lambda: (999.0, 0.0, 0.0), raising=False)
        cpu_tuning.tune(llm, "a")
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").touch()
    cpu_tuning.tune(llm, "a")
    assert len(measured) == 2
