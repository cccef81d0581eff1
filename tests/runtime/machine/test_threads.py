"""How many threads, and what kind of CPU, from what the system says of itself."""

import os
from pathlib import Path

import pytest
from machines import another_cpu, put

from embedding_runtime.engines import onnx_session
from embedding_runtime.machine import cpu
from embedding_runtime.machine.cgroups import cpu_quota, memory_limit
from embedding_runtime.machine.cores import cores, fast_cores
from embedding_runtime.machine.threads import available_cpus, resolve_threads

EIGHT = set(range(8))


def sys_cpus(name: str, *values: int) -> dict[str, str | int]:
    return {f"sys/devices/system/cpu/cpu{n}/{name}": value for n, value in enumerate(values)}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
        ("", 8),
    ],
)
def test_quota_of_the_control_group(limit: str, expected: int, tmp_path: Path) -> None:
    """As a container sees its own group: at the root."""
    put(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": limit})
    assert available_cpus(tmp_path, EIGHT) == expected


@pytest.mark.parametrize("mount", ["sys/fs/cgroup", "sys/fs/cgroup/unified"])
def test_the_least_quota_of_all_groups_around(mount: str, tmp_path: Path) -> None:
    files: dict[str, str | int] = {
        "proc/self/cgroup": "0::/system.slice/search.service",
        f"{mount}/system.slice/search.service/cpu.max": "600000 100000",
        f"{mount}/system.slice/cpu.max": "300000 100000",
        f"{mount}/system.slice/memory.max": "max",
        f"{mount}/system.slice/search.service/memory.max": 512 << 20,
    }
    put(tmp_path, files)
    assert cpu_quota(tmp_path) == 3.0
    assert available_cpus(tmp_path, EIGHT) == 3
    assert memory_limit(tmp_path) == 512 << 20


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 8)])
@pytest.mark.parametrize("group", ["", "/inner"])
def test_quota_of_the_older_control_group(quota: str, expected: int, group: str, tmp_path: Path) -> None:
    """A container is told its group's path on the host, which it cannot see: its own is at the mount."""
    files: dict[str, str | int] = {
        "proc/self/cgroup": "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1",
        f"sys/fs/cgroup/cpu/docker/1{group}/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,
    }
    put(tmp_path, files)
    assert available_cpus(tmp_path, EIGHT) == expected
    assert memory_limit(tmp_path) is None


def test_without_a_control_group(tmp_path: Path) -> None:
    assert available_cpus(tmp_path, EIGHT) == 8
    assert available_cpus(tmp_path, {3}) == 1
    assert memory_limit(tmp_path) is None
    assert 1 <= resolve_threads(None) == available_cpus() <= (os.cpu_count() or 1)
    assert resolve_threads(3) == 3


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("cpu_capacity", (414, 414, 414, 414, 1024, 1024, 1024, 1024), 4),  # RK3588
        ("cpu_capacity", (325, 325, 325, 325, 828, 828, 828, 1024), 4),  # a phone of three kinds
        ("cpu_capacity", (1024, 1024, 1024, 1024), 4),
        ("cpufreq/cpuinfo_max_freq", (1416000, 1416000, 1416000, 1416000, 1800000, 1800000), 2),  # RK3399
        ("cpufreq/cpuinfo_max_freq", (5000000, 5000000, 5200000, 5200000), 4),  # favoured cores of a PC
        ("cpufreq/cpuinfo_max_freq", (1800000, 1800000, 1800000, 1800000), 4),  # Raspberry Pi 4
        ("cpu_capacity", (414, 414, 1024), 1),
    ],
)
def test_slow_cores_get_no_thread(name: str, values: tuple[int, ...], expected: int, tmp_path: Path) -> None:
    put(tmp_path, sys_cpus(name, *values))
    everywhere = set(range(len(values)))
    assert available_cpus(tmp_path, everywhere) == expected
    assert available_cpus(tmp_path, {0, 1}) == 2, "slow cores are all there is"
    with_unknown = {*everywhere, len(values)}
    assert available_cpus(tmp_path, with_unknown) == len(with_unknown), "one core says nothing of itself"


def test_capacity_beats_the_clock_and_cores_have_names(tmp_path: Path) -> None:
    """A slow core may have the faster clock."""
    files = sys_cpus("cpu_capacity", 500, 1024) | sys_cpus("cpufreq/cpuinfo_max_freq", 2400000, 1800000)
    text = "processor : 0\nCPU part : 0xd05\n\nprocessor : 1\nCPU part : 0xd0b\n"
    put(tmp_path, {**files, "proc/cpuinfo": text})
    found = cores(tmp_path, {0, 1})
    assert [c.name for c in found] == ["Cortex-A55", "Cortex-A76"]
    assert fast_cores(found) == (found[1],)
    assert found[1].megahertz == 1800


def test_kernels_that_saturate_are_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On x86 without VNNI alone; that it helps there is shown on an emulated CPU (test_haswell)."""
    key = "session.x64quantprecision"
    monkeypatch.setattr(onnx_session, "cpu_kind", lambda: "x86")
    assert onnx_session.session_options(1).get_session_config_entry(key) == "1"
    for kind in ("x86-vnni", "arm-dotprod", "arm"):
        monkeypatch.setattr(onnx_session, "cpu_kind", lambda kind=kind: kind)
        with pytest.raises(RuntimeError, match=key):
            onnx_session.session_options(1).get_session_config_entry(key)


@pytest.mark.parametrize(
    ("machine", "text", "kind"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni\n", "x86-vnni"),
        ("AMD64", "flags\t\t: fpu avx2 avx_vnni\n", "x86-vnni"),
        ("x86_64", "flags\t\t: fpu avx2\n", "x86"),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd asimddp\n", "arm-dotprod"),
        ("aarch64", "Features\t: fp asimd\n", "arm"),
        ("riscv64", "", "riscv64"),
    ],
)
def test_kind_of_cpu(machine: str, text: str, kind: str, tmp_path: Path) -> None:
    with another_cpu(machine, text, tmp_path) as cpuinfo:
        assert cpu.cpu_kind() == kind
        mine = cpu.cpu_fingerprint()
        cpuinfo.write_text(text + "flags\t\t: other\n" if not text else text.replace(": ", ": new "))
        cpu.cpu_fingerprint.cache_clear()
        assert cpu.cpu_fingerprint() != mine
