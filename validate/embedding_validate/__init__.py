"""Compares a bundle with its reference on the same texts: figures, a verdict, and a diagnosis of faults.

    report = check("my-bundle", "my-checkpoint")      # report.passed, report.graphs["onnx/int8"].cosine
    assert_parity("my-bundle", "my-checkpoint")       # in a test: fails, and says which graph and why
    export_bundle(checkpoint, folder, options, parity_gate(checkpoint))

The reference is a checkpoint (folder or hub id), or a `reference.npz` of `validate-embedding --save`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedding_validate.gate import parity_gate
    from embedding_validate.parity.results import GraphReport, Report
    from embedding_validate.testing import assert_parity, check

# Imported when first asked for: the commands say what is missing where an extra is not installed.
_HOMES = {
    "GraphReport": "parity.results",
    "Report": "parity.results",
    "assert_parity": "testing",
    "check": "testing",
    "parity_gate": "gate",
}

__all__ = ["GraphReport", "Report", "assert_parity", "check", "parity_gate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
