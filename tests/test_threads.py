"""How many threads, and what kind of CPU, from what the system says of itself."""

from pathlib import Path

import pytest

from embedding_runtime import cpu, threads


@pytest.fixture
def control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in place of the kernel's, and eight CPUs to be scheduled on."""
    monkeypatch.setattr(threads, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "_CGROUP_V1", tmp_path / "v1")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9900000 100000", 8),
        ("nonsense", 8),
    ],
)
def test_quota_of_the_control_group(control_group: Path, limit: str, expected: int) -> None:
    (control_group / "cpu.max").write_text(limit + "\n")
    assert threads.available_cpus() == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 8)])
def test_quota_of_the_older_control_group(control_group: Path, quota: str, expected: int) -> None:
    (control_group / "v1").mkdir()
    (control_group / "v1" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (control_group / "v1" / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.available_cpus() == expected


def test_without_a_control_group(control_group: Path) -> None:
    assert threads.available_cpus() == 8
    assert threads.resolve_threads(None) == 8
    assert threads.resolve_threads(3) == 3


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
def test_kind_of_cpu(
    machine: str, text: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    cpu.cpu_kind.cache_clear()
    cpu.cpu_fingerprint.cache_clear()
    try:
        assert cpu.cpu_kind() == kind
        mine = cpu.cpu_fingerprint()
        (tmp_path / "cpuinfo").write_text(
            text + "flags\t\t: other\n" if not text else text.replace(": ", ": new ")
        )
        cpu.cpu_fingerprint.cache_clear()
        assert cpu.cpu_fingerprint() != mine
    finally:
        cpu.cpu_kind.cache_clear()
        cpu.cpu_fingerprint.cache_clear()
