from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from blsp.modeling.packed import cpu_choice, int8_products
from blsp.modeling.packed.cpu_choice import CpuChoice, apply, apply_to_linears, measure, physical_cores
from blsp.modeling.packed.linear import PackedLinear
from blsp.models import cpu_tuning
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
    now = [0.0]
    forward = PackedLinear.forward

    def slowed(linear: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        way = linear.few_rows if len(x) == 1 else linear.many_rows
        if way in slow and slow[way] is None:
            raise NotImplementedError
        now[0] += 0.001 + slow.get(way, 0.0)
        return forward(linear, x)

    block = PackedLinear.block

    def block_slowly(linear: PackedLinear, *, keep: bool = False) -> None:
        now[0] += 1.0 if linear.blocked is None else 0.0  # once, which says nothing of the products
        block(linear, keep=keep)

    monkeypatch.setattr(PackedLinear, "block", block_slowly)
    monkeypatch.setattr(PackedLinear, "forward", slowed)
    monkeypatch.setattr(cpu_choice, "time", SimpleNamespace(perf_counter=lambda: now[0]))
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
        ({"4 bits": 0.018, "as many": 0.02, "int8": 0.02, "blocked": 0.0}, "as many", "blocked"),  # one copy serves all
        ({"4 bits": 0.01, "as many": 0.02, "int8": 0.02, "blocked": 0.0}, "4 bits", "blocked"),
    ],
)
def test_the_fastest_way_is_taken(
    llm: nn.Module, slow_ways: dict[str, Any], seconds: dict[str, Any], few: str, many: str
) -> None:
    slow_ways.update({"blocked": 0.09, **seconds})
    if many == "blocked":
        slow_ways.update({"float32": 0.02, "bfloat16": 0.02})
    if not seconds:
        slow_ways.update(dict.fromkeys(["4 bits", "8 bits", "as many", "int8", "float32", "bfloat16"], 0.01))
    assert measure(llm) == CpuChoice(few, many, few, None)  # type: ignore[arg-type]


def test_integers_that_overflow_are_not_taken(llm: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_choice, "multiplies_exactly", lambda: False)
    monkeypatch.setattr(int8_products, "row_levels", lambda: None)
    assert measure(llm).many_rows in ("float32", "bfloat16")


def test_a_weight_is_kept_once(llm: nn.Module) -> None:
    x = torch.randn(1, 64)
    before = llm(x)
    apply(llm, CpuChoice("as many", "blocked", "as many", None))
    assert [(layer.values, layer.levels, layer.bits) for layer in llm] == [(None, None, 8)] * 2  # type: ignore[union-attr]
    assert float((llm(x) - before).norm() / before.norm()) < 0.1
    assert llm(torch.cat([x] * 9))[4] == pytest.approx(llm(x)[0], rel=1e-5, abs=1e-5)


def test_layers_that_read_the_same_are_one_weight() -> None:
    torch.manual_seed(0)
    llm = nn.Sequential(nn.Module())
    names = ("q_proj", "k_proj", "v_proj")
    for name, size in zip(names, (64, 32, 32)):
        llm[0].add_module(name, PackedLinear.of(torch.randn(size, 64), torch.randn(size), keep=False))
    layers, x = [llm[0].get_submodule(name) for name in names], torch.randn(9, 64)
    before = [layer(x) for layer in layers]
    apply(llm, CpuChoice("as many", "blocked", "as many", None))
    for layer, expected in zip(layers, before):
        assert layer.values is None
        torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layers[1](x[:1]), before[1][:1], rtol=1e-3, atol=1e-3)


def test_layers_may_be_told_before_there_is_an_llm() -> None:
    torch.manual_seed(0)
    sizes = {"k_proj": 32, "o_proj": 64, "q_proj": 64, "v_proj": 32}  # as names of a file are sorted
    linears = {f"layers.0.{name}": PackedLinear.of(torch.randn(n, 64), keep=False) for name, n in sizes.items()}
    x = torch.randn(9, 64)
    before = {name: linear(x) for name, linear in linears.items()}
    choice = CpuChoice("as many", "blocked", "as many", None)
    apply_to_linears(linears, choice)
    told = {name: linear.blocked for name, linear in linears.items()}
    apply_to_linears(linears, choice)  # as `apply` does later
    assert all(linear.blocked is told[name] for name, linear in linears.items())
    for own in ("q_proj", "k_proj", "v_proj", "o_proj"):
        name = f"layers.0.{own}"
        torch.testing.assert_close(linears[name](x), before[name], rtol=1e-3, atol=1e-3)


def test_an_output_layer_keeps_the_weight_that_scores_exactly() -> None:
    torch.manual_seed(0)
    llm = nn.Sequential(PackedLinear.of(torch.randn(320, 64), bits=4, keep=False, n_exact=8))
    x = torch.randn(1, 64)
    before = llm(x)
    apply(llm, CpuChoice("as many", "blocked", "4 bits", None))
    assert torch.equal(llm(x), before)


def test_threads_that_were_measured_before_give_way_to_what_the_user_says(
    llm: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    apply(llm, CpuChoice("8 bits", "float32", "8 bits", 2))
    assert taken == []


def test_a_choice_is_applied_to_all_matrices(llm: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        apply(llm, CpuChoice("8 bits", "float32", "8 bits", 1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert [(layer.few_rows, layer.many_rows) for layer in llm] == [("8 bits", "float32")] * 2  # type: ignore[union-attr]
    x, weight = torch.randn(1, 64), llm[0].values * llm[0].scales[:, None]  # type: ignore[index,union-attr,operator]
    assert float((llm[0](x) - x @ weight.T).norm() / llm[0](x).norm()) < 0.01  # type: ignore[index]


@pytest.mark.slow
def test_threads_are_measured_unless_the_user_says(llm: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    taken = [1]
    monkeypatch.setattr(cpu_choice, "physical_cores", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(cpu_choice, "run_linears", lambda linears, n: time.sleep(0.001 * {4: 1}.get(taken[-1], 4)))
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
        return CpuChoice("8 bits", "int8", "8 bits", None)

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
    unknown = {"few_rows": "3 bits", "many_rows": "int8", "output_rows": "4 bits", "threads": None}
    for damage in (unknown, [], {"x": 1}, "text"):
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
