from __future__ import annotations

from pathlib import Path

import pytest

from blsp.models.memory import available_memory

GB = 1 << 30
MEMINFO = f"MemTotal: 9999 kB\nMemAvailable:    {8 * GB // 1024} kB\n"


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max"}, 8 * GB),
        (  # the group, and one around it that leaves less
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": f"{4 * GB}\n",
                "sys/fs/cgroup/a/b/memory.current": f"{GB}\n",
                "sys/fs/cgroup/a/memory.max": f"{3 * GB}\n",
                "sys/fs/cgroup/a/memory.current": f"{2 * GB}\n",
                "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {GB}\n",
            },
            2 * GB,
        ),
        (  # a container: the path is the host's, the group is mounted at the base
            {
                "proc/self/cgroup": "0::/docker/123\n",
                "sys/fs/cgroup/memory.max": f"{2 * GB}",
                "sys/fs/cgroup/memory.current": f"{3 * GB}",
            },
            0,
        ),
        (  # version 1
            {
                "proc/self/cgroup": "9:cpu:/x\n4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{2 * GB}",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{GB}",
                "sys/fs/cgroup/memory/x/memory.stat": f"total_inactive_file {GB // 2}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
            },
            GB + GB // 2,
        ),
    ],
)
def test_the_least_of_machine_and_control_groups(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert available_memory(_write(tmp_path, {"proc/meminfo": MEMINFO, **files})) == expected


def test_a_system_without_proc_says_what_it_has_in_all(tmp_path: Path) -> None:
    found = available_memory(tmp_path)
    assert found is None or found > GB // 2
