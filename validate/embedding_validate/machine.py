"""Describes the machine and the package versions with which a figure was measured."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from embedding_runtime.machine.cpu import CPUINFO, read_cpuinfo

_PACKAGES = ("embedding-edge", "onnxruntime", "ai-edge-litert", "numpy", "tokenizers")


def machine() -> dict[str, str]:
    """Operating system, architecture, CPU model and the CPUs this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": str(cpus),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that run a bundle; those not installed are left out."""
    by_package = {}
    for name in _PACKAGES:
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            continue
    return by_package


def _cpu_model() -> str:
    """`model name` of /proc/cpuinfo (which ARM boards often lack), else the name from `platform`."""
    names = (value for key, value in read_cpuinfo(CPUINFO) if key == "model name")
    return next(names, "") or platform.processor() or platform.machine()
