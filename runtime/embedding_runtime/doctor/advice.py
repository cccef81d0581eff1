"""Derives from the examined machine and bundle what is wrong, and what would be faster or smaller."""

from embedding_runtime.doctor.bundle import BundleState
from embedding_runtime.doctor.machine import Machine
from embedding_runtime.engines.backends import PREPACKED_PRECISIONS
from embedding_runtime.engines.registry import below_floor
from embedding_runtime.machine.platforms import lack

MB = 1_000_000
# Free space for one entry of the device's cache at full size, in bytes.
_CACHE_ROOM = 300 * MB
# A graph this much faster is worth telling.
_FASTER = 0.9


def problems(machine: Machine, bundle: BundleState | None) -> list[str]:
    """Problems that prevent embeddings from being computed, or from being right."""
    lines = []
    if not any(e.version for e in machine.engines.values()):
        lines.append(f"No engine can be used. {_engine_errors(machine)}")
    else:
        lines += [e.error or "" for e in machine.engines.values() if e.installed and e.fits and not e.version]
    if bundle:
        lines += bundle.problems
    return lines


def advice(machine: Machine, bundle: BundleState | None) -> list[str]:
    """Advice on what would be faster or smaller on this machine, each in a sentence or two."""
    return [*_of_machine(machine), *(_of_bundle(machine, bundle) if bundle and bundle.chosen else ())]


def _engine_errors(machine: Machine) -> str:
    reason = lack("onnxruntime", machine.platform)
    return reason or "; ".join(f"{e.name}: {e.error}" for e in machine.engines.values())


def _of_machine(machine: Machine) -> list[str]:
    lines = []
    if machine.governor == "powersave" and machine.cpu_kind.startswith("arm"):
        lines.append(
            "The clock is kept low (governor powersave). Faster: sudo cpufreq-set -r -g ondemand, or echo "
            "ondemand into /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor."
        )
    if not all(group.fast for group in machine.cores):
        lines.append("Slow cores get no thread; --threads N tries other numbers.")
    if machine.quota is not None and machine.quota < sum(g.count for g in machine.cores if g.fast):
        lines.append(
            f"The control group grants {machine.quota:g} CPUs' time: more of it (CPUQuota=, --cpus) is "
            "faster."
        )
    if machine.cpu_kind == "x86":
        version = machine.engines["onnx"].version
        refused = version and below_floor("onnx", "int8", version, machine.cpu_kind)
        lines.append(
            "This CPU has no VNNI: int8 and int4 graphs round activations to 7 bits where the bundle allows "
            f"it; others run on {f'no kernels: {refused}' if refused else 'slower kernels.'}"
        )
    if machine.cpu_kind == "arm":
        lines.append(
            "This CPU has no dot-product instructions: int8 and int4 gain less here than on newer cores."
        )
    if not machine.cache.writable or machine.cache.free < _CACHE_ROOM:
        lines.append(
            f"Packed weights cannot be kept in {machine.cache.folder} ({machine.cache.free // MB} MB free, "
            f"{'' if machine.cache.writable else 'not '}writable): every process packs its own, about 0.1 GB "
            "of memory and a second each. Set XDG_CACHE_HOME to a folder with 0.3 GB."
        )
    return lines


def _of_bundle(machine: Machine, bundle: BundleState) -> list[str]:
    lines, default = [], bundle.chosen
    assert default
    precision = default.key.split("/")[1]
    if precision in ("fp32", "fp16"):
        lines.append(
            f"{precision} is among the slowest and largest precisions. Faster and smaller: export-embedding "
            "CHECKPOINT BUNDLE --add --precision int8"
        )
    for graph in bundle.graphs:
        how = f'--precision {graph.key.split("/")[1]}, or format="{graph.key.split("/")[0]}" in Python'
        if graph.speed and default.speed and graph.speed.milliseconds < _FASTER * default.speed.milliseconds:
            lines.append(
                f"Faster: {graph.key} takes {graph.speed.milliseconds:.1f} ms for a query here, "
                f"{default.key} {default.speed.milliseconds:.1f} ({how})."
            )
        spared = (default.size - graph.size) // MB
        if spared > 0:
            lines.append(f"Smaller: {graph.key} is {spared} MB less on disk than {default.key}; {graph.why}.")
    one_sum = machine.features.get("AVX-512") and machine.features.get("VNNI")
    if any(g.key == "onnx/int4" and g.bit_stable is False for g in bundle.graphs) and not one_sum:
        lines.append(
            "Bit for bit: onnx/int4's kernels here depend on the number of rows: a text alone and in a batch "
            "differ by up to 1e-6 in a component. int8's do not."
        )
    if not bundle.trimmed:
        lines.append(
            "Smaller: two thirds of the model are its vocabulary; export-embedding --alphabet latin (or "
            "ascii, greek, cyrillic) keeps the rows that your texts can reach."
        )
    if not bundle.prepared and precision in PREPACKED_PRECISIONS:
        lines.append("Packed weights are not in the device's cache: each process holds its own copy.")
    limit = machine.memory_limit or machine.memory
    if limit and bundle.anonymous and bundle.anonymous > 0.5 * limit:
        lines.append(f"The process holds {bundle.anonymous // MB} MB of {limit // MB} MB that it may use.")
    return lines
