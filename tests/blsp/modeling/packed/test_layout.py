from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blsp.modeling.packed.layout import (
    GROUP,
    LAYOUTS,
    from_kernel,
    pack_levels,
    this_cpu_layout,
    to_kernel,
    unpack_levels,
)
from blsp.modeling.packed.linear import quantize_groups


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.integers(1, 12), st.integers(1, 3), st.integers(0, 99))
def test_every_layout_gives_back_what_it_was_given(layout: str, sixteens: int, n_groups: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 16, (16 * sixteens, GROUP * n_groups), generator=random, dtype=torch.uint8)
    packed = pack_levels(levels, layout)
    assert packed.shape == (16 * sixteens, GROUP * n_groups // 2)
    assert torch.equal(unpack_levels(packed, layout), levels)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_weight_survives_the_form_of_the_kernel(layout: str) -> None:
    torch.manual_seed(0)
    levels, groups = quantize_groups(0.02 * torch.randn(80, 2 * GROUP))
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    expected = levels * scales + offsets
    found = from_kernel(*to_kernel(levels, groups, layout), layout)
    assert float((found - expected).norm() / expected.norm()) < 0.005  # scales and offsets are rounded to bfloat16


PROBE = (
    "import torch\n"
    "from blsp.modeling.packed.layout import GROUP, this_cpu_layout, to_kernel\n"
    "from blsp.modeling.packed.linear import quantize_groups\n"
    "torch.manual_seed(0)\n"
    "layout = this_cpu_layout()\n"
    "x, weight = torch.randn(3, 64).to(torch.bfloat16), torch.randn(176, 64)\n"
    "levels, groups = quantize_groups(weight)\n"
    "scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))\n"
    "packed = to_kernel(levels, groups, layout)\n"
    "found = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed[0], GROUP, packed[1]).float()\n"
    "expected = x.float() @ (levels * scales + offsets).T\n"
    "print(layout, float((found - expected).norm() / expected.norm()) < 0.01)\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "layout"), [("avx512", "halves64"), ("avx2", "halves32"), ("default", "pairs32")]
)
def test_torch_multiplies_by_the_layout_that_is_found(capability: str, layout: str) -> None:
    """On whatever CPU this runs, torch can be told to compute as on a lesser one."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, env=environment, check=True)
    found, is_right = done.stdout.split()
    assert is_right == "True"
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert found == layout


def test_this_cpu_has_one_of_the_layouts() -> None:
    if not hasattr(torch.ops.aten, "_convert_weight_to_int4pack_for_cpu"):
        pytest.skip("this build of torch has no product for 4 bits")
    assert this_cpu_layout() in LAYOUTS
