"""Going on with a run: the same plan and files, and the verdicts of now."""

from pathlib import Path
from typing import Any

import pytest

from embedding_runtime.errors import InputError
from embedding_validate.compare_store import Store


def run(verdict: str, files: int = 1, started: str = "today") -> dict[str, Any]:
    system = {"name": "onnx/int8", "bytes": files, "parity": {"status": verdict}}
    empty: dict[str, Any] = {"cases": [], "openings": []}
    return {"plan": {"threads": [1]}, "bundles": [], "systems": [system], "started": started, **empty}


def test_a_graph_that_was_validated_meanwhile(tmp_path: Path) -> None:
    Store(tmp_path, run("not run"), resume=False)
    found = Store(tmp_path, run("passed", started="tomorrow"), resume=True).run
    assert found["systems"][0]["parity"] == {"status": "passed"}
    assert (found["started"], found["resumed"]) == ("today", ["tomorrow"])


def test_another_graph_is_another_comparison(tmp_path: Path) -> None:
    Store(tmp_path, run("not run"), resume=False)
    with pytest.raises(InputError, match="its systems differ"):
        Store(tmp_path, run("not run", files=2), resume=True)
