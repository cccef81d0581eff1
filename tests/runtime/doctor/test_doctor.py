"""`embedding-doctor`: what it finds, what it calls wrong, and what it advises."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import WITHOUT_POWERS, assumed
from machines import another_cpu, put

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import load_manifest
from embedding_runtime.bundle import SEVEN_BITS
from embedding_runtime.doctor import cli as doctor
from embedding_runtime.doctor.advice import MB, advice, problems
from embedding_runtime.doctor.bundle import BundleState, GraphState, Speed
from embedding_runtime.doctor.cli import main
from embedding_runtime.doctor.machine import CoreGroup, EngineState, Machine, examine_machine
from embedding_runtime.errors import EngineError
from embedding_runtime.machine.cpu import cpu_kind
from embedding_runtime.machine.platforms import Platform, lack, this_platform
from embedding_runtime.machine.process_memory import process_memory
from embedding_runtime.opening.selection import choose_graph

Captured = pytest.CaptureFixture[str]
PI = Platform("Linux", "aarch64", 64, "glibc", (2, 36))


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "bundle"
    options = ExportOptions(precisions=("fp32", "int8", "int4"))
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def examined(arguments: list[str], capfd: Captured, status: int) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == status
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_a_sound_bundle(bundle: Path, capfd: Captured) -> None:
    found = examined([str(bundle)], capfd, 0)
    graphs = {g["key"]: g for g in found["bundle"]["graphs"]}
    assert [k for k, g in graphs.items() if g["chosen"]] == ["onnx/int8"]
    assert graphs["onnx/fp32"]["why"] == "int8 is preferred to fp32"
    assert graphs["onnx/int4"]["why"] == "int4 is used only on request"
    assert graphs["onnx/int8"]["speed"]["runs"] > 3
    assert graphs["onnx/int4"]["speed"]["milliseconds"] > 0
    assert graphs["onnx/fp32"]["speed"] is None
    assert found["bundle"]["golden_difference"] <= found["bundle"]["golden_tolerance"]
    assert found["bundle"]["prepared"] is True
    if Path("/proc/self/smaps_rollup").exists():
        assert 0 < found["bundle"]["anonymous"] < found["bundle"]["proportional"]
    assert found["problems"] == []
    assert found["machine"]["engines"]["onnx"]["version"]


def test_in_plain_words(bundle: Path, capfd: Captured) -> None:
    assert main([str(bundle)]) == 0
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines()][:4] == ["machine", "CPU", "memory", "threads"]
    assert "onnx/int8" in out
    assert out.splitlines()[-1] == "fine       nothing is wrong"
    assert err == ""


def test_without_a_bundle(capfd: Captured) -> None:
    found = examined([], capfd, 0)
    assert found["bundle"] is None
    assert found["machine"]["threads"] >= 1
    assert found["machine"]["cache"]["writable"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
@pytest.mark.parametrize("place", ["", "embedding-edge", "embedding-edge/prepared"])
def test_a_cache_that_cannot_be_looked_at(bundle: Path, tmp_path: Path, place: str) -> None:
    closed = tmp_path / "xdg" / place
    closed.mkdir(parents=True)
    closed.chmod(0)
    code = f"{WITHOUT_POWERS}\nimport sys; from embedding_runtime.doctor import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True)
    closed.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert "Packed weights cannot be kept" in done.stdout and "fine       nothing" in done.stdout


def test_a_damaged_bundle(bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    name = next(g for g in load_manifest(broken).graphs if g.precision == "int8").external_data[0]
    data = bytearray((broken / name).read_bytes())
    data[len(data) // 2] ^= 1
    (broken / name).write_bytes(data)
    found = examined([str(broken)], capfd, 1)
    assert "SHA-256" in found["problems"][0]
    assert main([str(broken)]) == 1
    assert "wrong      " in capfd.readouterr().out
    assert "is not a folder" in examined([str(tmp_path / "nowhere")], capfd, 1)["problems"][0]


def test_a_graph_that_is_not_chosen_is_damaged(bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    fp32 = next(g for g in load_manifest(broken).graphs if g.precision == "fp32")
    (broken / fp32.external_data[0]).write_bytes(b"cut")
    (broken / fp32.file).unlink()
    found = examined([str(broken)], capfd, 1)
    assert found["bundle"]["golden_difference"] is not None, "the chosen one is sound"
    assert ["is missing" in line for line in found["problems"]] == [True, False]
    assert "has 3 bytes" in found["problems"][1]


def test_a_reader_that_goes_away(bundle: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from embedding_runtime.doctor.cli import main; sys.exit(main())",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == "embedding-doctor: error: the reader of the output went away\n"
    assert process.returncode == 1
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_interrupted(bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine_bundle", interrupted)
    assert main([str(bundle)]) == 130
    assert capfd.readouterr().err == "embedding-doctor: interrupted\n"


def test_a_user_without_a_home(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", nowhere)
    found = examined([], capfd, 0)
    assert found["machine"]["cache"]["writable"] is False
    assert any("Set XDG_CACHE_HOME to a folder" in line for line in found["advice"])


def test_usage(capfd: Captured) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["one", "two"])
    assert stopped.value.code == 2


@pytest.fixture
def machine() -> Machine:
    """A Raspberry Pi 5, as far as advice depends on it."""
    here = examine_machine()
    cores = (CoreGroup("Cortex-A76", 4, 2400, True),)
    cache = replace(here.cache, free=9000 * MB, writable=True)
    return replace(
        here, platform=PI, cpu_kind="arm-dotprod", cores=cores, quota=None, governor="ondemand", cache=cache
    )


def state(**changes: Any) -> BundleState:
    graphs = (
        GraphState("onnx/int8", 310 * MB, True, "", Speed(16, 20.0, 50)),
        GraphState("onnx/int4", 187 * MB, False, "int4 is used only on request", Speed(16, 30.0, 30)),
    )
    given: dict[str, Any] = {"trimmed": True, "graphs": graphs, "prepared": True, **changes}
    return BundleState("bundle", "checkpoint", **given)


def test_advice_about_the_machine(machine: Machine) -> None:
    assert advice(machine, None) == []
    slow = CoreGroup("Cortex-A55", 4, 1800, False)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"governor": "powersave"}, "clock is kept low"),
        ({"cores": (*machine.cores, slow)}, "Slow cores"),
        ({"quota": 1.5}, "grants 1.5 CPUs"),
        ({"cpu_kind": "arm"}, "no dot-product"),
        ({"cpu_kind": "x86"}, "no VNNI"),
        ({"cache": replace(machine.cache, writable=False)}, "not writable"),
        ({"cache": replace(machine.cache, free=10 * MB)}, "10 MB free"),
    ]
    for changes, words in cases:
        assert [words in line for line in advice(replace(machine, **changes), None)] == [True]


def test_an_engine_too_old_for_this_cpu(machine: Machine) -> None:
    """Known without a bundle, and said with what to install."""
    for version, words in (
        ("1.29.0", "pip install 'onnxruntime>=1.30.0'"),
        ("1.30.0", "others run on slower kernels"),
    ):
        engines = {**machine.engines, "onnx": EngineState("onnxruntime", True, True, version, None)}
        (line,) = advice(replace(machine, cpu_kind="x86", engines=engines), None)
        assert "no VNNI" in line
        assert words in line
    old = {**machine.engines, "onnx": EngineState("onnxruntime", True, True, "1.29.0", None)}
    assert advice(replace(machine, engines=old), None) == [], "on other CPUs it does"


def test_int4_s_batches(machine: Machine) -> None:
    """4-bit kernels are bit by bit the same with AVX-512 and VNNI alone, 8-bit ones everywhere."""
    for features, stable, told in (
        ({"AVX-512": True, "VNNI": True}, False, False),
        ({"AVX-512": False, "VNNI": True}, False, True),
        ({"AVX-512": False, "VNNI": True}, True, False),
    ):
        graphs = tuple(replace(g, bit_stable=stable) for g in state().graphs)
        there = replace(machine, cpu_kind="x86-vnni", features=features)
        found = advice(there, state(graphs=graphs))
        assert any("in a batch" in line for line in found) == told


def test_advice_about_a_bundle(machine: Machine) -> None:
    assert advice(replace(machine, features={"AVX-512": True, "VNNI": True}), state()) == [
        "Smaller: onnx/int4 is 123 MB less on disk than onnx/int8; int4 is used only on request."
    ]
    faster = GraphState("litert/int8", 400 * MB, False, "", Speed(16, 12.0, 80))
    chosen = state().graphs[0]
    assert "12.0 ms for a query here, onnx/int8 20.0" in advice(machine, state(graphs=(chosen, faster)))[0]
    for changes, words in (
        ({"trimmed": False}, "--alphabet latin"),
        ({"prepared": False}, "each process holds its own copy"),
        ({"anonymous": 300 * MB}, "of 500 MB that it may use"),
        ({"graphs": (replace(chosen, key="onnx/fp32"),)}, "--add --precision int8"),
    ):
        assert any(words in line for line in advice(replace(machine, memory=500 * MB), state(**changes)))


def test_a_machine_without_an_engine(machine: Machine) -> None:
    none = {k: EngineState(e.name, False, True, None, "not installed") for k, e in machine.engines.items()}
    assert problems(machine, None) == []
    assert "onnxruntime: not installed" in problems(replace(machine, engines=none), None)[0]
    old = replace(machine, engines=none, platform=replace(PI, bits=32, machine="armv7l"))
    assert "64-bit system" in problems(old, None)[0]
    broken = {**machine.engines, "litert": EngineState("ai-edge-litert", True, True, None, "does not load")}
    assert problems(replace(machine, engines=broken), None) == ["does not load"]


def test_seven_bits_are_told(bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    """On a CPU without VNNI, of a bundle that allows them; its golden vectors are held to their own bound."""
    allowing = tmp_path / "bundle"
    shutil.copytree(bundle, allowing)
    document = json.loads((allowing / "manifest.json").read_text())
    for graph in document["graphs"]:
        graph["golden_tolerance"].pop(SEVEN_BITS, None)
        if graph["precision"] == "int8":
            graph["golden_tolerance"][SEVEN_BITS] = 0.0999
    (allowing / "manifest.json").write_text(json.dumps(document))
    words = "its activations have 7 bits here"
    with another_cpu("x86_64", "flags\t\t: fpu avx2\n", tmp_path):
        graphs = {g["key"]: g for g in examined([str(allowing)], capfd, 0)["bundle"]["graphs"]}
        told = examined([str(allowing)], capfd, 0)["bundle"]
    assert {key: words in g["why"] for key, g in graphs.items()} == {
        key: key == "onnx/int8" for key in graphs
    }
    assert told["golden_tolerance"] == 0.0999
    assert words not in str(examined([str(allowing)], capfd, 0)) or cpu_kind() == "x86"


@pytest.fixture
def pi_4(tmp_path: Path) -> Iterator[None]:
    """Its CPU has no dot-product instructions."""
    with another_cpu("aarch64", "Features : fp asimd evtstrm crc32\n", tmp_path):
        yield


def test_an_engine_that_this_cpu_cannot_run(bundle: Path, pi_4: None, capfd: Captured) -> None:
    """Nothing is wrong with the board: its graphs run on the other engine."""
    pytest.importorskip("ai_edge_litert")
    found = examined([str(bundle)], capfd, 0)
    assert "needs a CPU with dot-product" in found["machine"]["engines"]["litert"]["error"]
    assert (found["machine"]["cpu_kind"], found["problems"]) == ("arm", [])
    manifest = load_manifest(bundle)
    fp32, int8 = (next(g for g in manifest.graphs if g.precision == p) for p in ("fp32", "int8"))
    both = replace(manifest, graphs=(fp32, replace(int8, format="litert")))
    assert choose_graph(both, None, None) == fp32
    with pytest.raises(EngineError, match="dot-product"):
        choose_graph(replace(both, graphs=both.graphs[1:]), None, None)


@pytest.mark.parametrize(
    ("changes", "engine", "words"),
    [
        ({}, "onnxruntime", None),
        ({}, "ai-edge-litert", None),
        ({"bits": 32, "machine": "armv7l"}, "onnxruntime", "32-bit Python (armv7l)"),
        ({"libc": "musl", "libc_version": ()}, "onnxruntime", "C library is musl"),
        ({"libc_version": (2, 27)}, "onnxruntime", "glibc 2.27, but onnxruntime needs glibc >= 2.28"),
        ({"libc_version": (2, 31)}, "onnxruntime", None),
        ({"libc_version": (2, 31)}, "ai-edge-litert", "needs glibc >= 2.34"),
        ({"system": "Darwin", "libc": "", "libc_version": ()}, "onnxruntime", None),
    ],
)
def test_platforms_without_wheels(changes: dict[str, Any], engine: str, words: str | None) -> None:
    found = lack(engine, replace(PI, **changes))
    assert (found is None) if words is None else (found is not None and words in found)


def test_this_platform_has_wheels() -> None:
    assert lack("onnxruntime", this_platform()) is None


def test_another_machine_s_tree(tmp_path: Path) -> None:
    cpus = "".join(f"processor : {n}\nCPU part : 0xd0b\n\n" for n in range(64))
    put(
        tmp_path,
        {
            "proc/cpuinfo": cpus,
            "proc/meminfo": "MemTotal: 1024 kB\nMemAvailable: 512 kB",
            "proc/device-tree/model": "Raspberry Pi 5 Model B\0",
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 4096,
        },
    )
    found = examine_machine(tmp_path)
    assert found.board == "Raspberry Pi 5 Model B"
    assert (found.memory, found.memory_available, found.memory_limit) == (1 << 20, 1 << 19, 4096)
    assert {g.name for g in found.cores} == {"Cortex-A76"}


def test_features_are_the_flags(pi_4: None, tmp_path: Path) -> None:
    assert examine_machine().features == {"dotprod": False, "i8mm": False, "bf16": False, "sve": False}
    (tmp_path / "cpuinfo").write_text("Features : fp asimd asimddp i8mm\n")
    assert examine_machine().features == {"dotprod": True, "i8mm": True, "bf16": False, "sve": False}


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
def test_memory_of_a_process(tmp_path: Path) -> None:
    before = process_memory()
    held = b"1" * (50 * MB)
    after = process_memory()
    assert before
    assert after
    assert after.anonymous - before.anonymous == pytest.approx(len(held), rel=0.1)
    assert after.proportional <= after.resident <= after.peak
    assert process_memory(proc=tmp_path) is None
