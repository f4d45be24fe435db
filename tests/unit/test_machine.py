"""What a process may use of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from theta_daemon import machine


def limit(mounted: Path, name: str, text: str) -> None:
    path = mounted / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def limits(tmp_path: Path, membership: str) -> list[int]:
    (tmp_path / "membership").write_text(membership)
    return sorted(machine.cgroup_limits(tmp_path / "membership", tmp_path / "mounted"))


def test_version_2_the_limits_of_all_groups_above_count(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    limit(mounted, "a/b/memory.max", "max\n")
    limit(mounted, "a/memory.max", "1000\n")
    limit(mounted, "memory.max", "2000\n")
    limit(mounted, "other/memory.max", "5\n")
    assert limits(tmp_path, "0::/a/b\n") == [1000, 2000]


def test_version_1_the_memory_controller_counts(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    limit(mounted, "memory/docker/x/memory.limit_in_bytes", "3000\n")
    limit(mounted, "cpu/docker/x/memory.limit_in_bytes", "5\n")
    assert limits(tmp_path, "12:cpu,cpuacct:/docker/x\n3:hugetlb,memory:/docker/x\n") == [3000]


@pytest.mark.parametrize("group", ["/not/mounted", "/../../outside"])
def test_a_group_outside_of_what_is_mounted_leaves_the_top(tmp_path: Path, group: str) -> None:
    limit(tmp_path / "mounted", "memory.max", "4000\n")
    assert limits(tmp_path, f"0::{group}\n") == [4000]


@pytest.mark.parametrize("membership", ["", "garbage\n", "1:\n", "0::/\n", "::\n"])
def test_no_limits(tmp_path: Path, membership: str) -> None:
    assert limits(tmp_path, membership) == []


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert list(machine.cgroup_limits(tmp_path / "absent", tmp_path)) == []


@pytest.mark.parametrize(
    ("physical", "groups", "memory"),
    [
        (64 << 30, [], 1 << 30),
        (2 << 30, [], 512 << 20),
        (64 << 30, [1 << 40, 1 << 30], 256 << 20),
        (64 << 30, [1 << 20], machine.LEAST_MEMORY),
    ],
)
def test_default_memory(physical: int, groups: list[int], memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "physical_memory", lambda: physical)
    monkeypatch.setattr(machine, "cgroup_limits", lambda: iter(groups))
    assert machine.default_memory() == memory


def test_this_machine() -> None:
    assert machine.usable_cores() == len(os.sched_getaffinity(0))
    assert machine.LEAST_MEMORY <= machine.default_memory() <= machine.MOST_MEMORY
