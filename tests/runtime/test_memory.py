"""What a process may still take is the least of what the machine, its control groups and its own limit leave."""

import psutil
import pytest

from nc_strategies.runtime import memory

GB = 2**30


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "MEMBERSHIPS", tmp_path / "memberships")
    yield tmp_path
    memory.set_limit(0)


def group(folder, most, used, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (most, used), strict=True):
        (folder / name).write_text(f"{text}\n")


def test_without_control_groups_the_machine_s_free_memory_counts():
    assert memory.free_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize("path", ["/", "/own", "/hidden/by/container"])
def test_a_control_group_limits_it(machine, path):
    (machine / "memberships").write_text(f"3:cpu:/own\n0::{path}\n")
    group(machine / "groups", "max", GB)
    if path == "/own":
        group(machine / "groups" / "own", 5000, 2000)
    else:
        group(machine / "groups", 5000, 2000)
    assert memory.free_bytes() == 3000


def test_a_control_group_above_limits_it_too(machine):
    (machine / "memberships").write_text("0::/a/b\n")
    group(machine / "groups" / "a" / "b", 9000, 0)
    group(machine / "groups" / "a", 5000, 4900)
    assert memory.free_bytes() == 100


def test_a_control_group_of_version_1_limits_it(machine):
    (machine / "memberships").write_text("4:memory:/own\n0::/\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(machine / "groups" / "memory" / "own", 5000, 1000, names)
    group(machine / "groups" / "memory", 2**63 - 4096, GB, names)
    assert memory.free_bytes() == 4000


def test_a_limit_of_the_process_counts_what_it_has_taken():
    used = psutil.Process().memory_info().rss / 2**20
    memory.set_limit(used + 1000)
    assert memory.free_bytes() == pytest.approx(1000 * 2**20, rel=0.2)
    memory.set_limit(used / 2)
    assert memory.free_bytes() == 0
