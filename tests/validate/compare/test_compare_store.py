"""Going on with a run: the same plan and files, the verdicts of now; what is damaged or old is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime.errors import InputError
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document.store import BASE, JSON, Store


def run(verdict: str, files: int = 1, started: str = "today") -> dict[str, Any]:
    system = {"name": "onnx/int8", "bytes": files, "parity": {"status": verdict}}
    empty: dict[str, Any] = {"cases": [], "openings": []}
    return {
        "plan": {"threads": [1]},
        "bundles": [],
        "systems": [system],
        "started": started,
        "label": "board",
        "origin": "measured",
        **empty,
    }


def test_a_graph_that_was_validated_meanwhile(tmp_path: Path) -> None:
    Store(tmp_path, run("not run"), resume=False)
    found = Store(tmp_path, run("passed", started="tomorrow"), resume=True).run
    assert found["systems"][0]["parity"] == {"status": "passed"}
    assert (found["started"], found["resumed"]) == ("today", ["tomorrow"])


def test_another_graph_is_another_comparison(tmp_path: Path) -> None:
    Store(tmp_path, run("not run"), resume=False)
    with pytest.raises(InputError, match="its systems differ"):
        Store(tmp_path, run("not run", files=2), resume=True)


def test_accuracy_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, run("passed"), resume=False)
    store.base["64"] = np.arange(3, dtype=np.float32)
    store.keep_base()
    assert sorted(p.name for p in tmp_path.iterdir()) == [BASE, JSON], "no half file is left"
    found = Store(tmp_path, run("passed"), resume=True).base
    np.testing.assert_array_equal(found["64"], [0, 1, 2])


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-30], lambda _: b"", lambda b: b[:90] + bytes([b[90] ^ 255]) + b[91:]]
)
def test_damaged_vectors_are_no_base(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = Store(tmp_path, run("passed"), resume=False)
    store.base["64"] = np.arange(30, dtype=np.float32)
    store.keep_base()
    (tmp_path / BASE).write_bytes(damage((tmp_path / BASE).read_bytes()))
    with pytest.raises(InputError, match=r"is damaged .* without --resume"):
        Store(tmp_path, run("passed"), resume=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 0, "runs": []}', "schema_version 0; this version reads 1"),
        ('{"schema_version": 1}', "holds no runs"),
        ('{"schema_version": 1, "runs": [{"label": "x"}]}', "holds no runs"),
        ('{"schema_version": 1, "runs"', "cannot be read|neither a compare.json"),
        ("[]", "has no schema_version|neither a compare.json"),
    ],
)
@pytest.mark.parametrize("command", ["--resume", "--merge"])
def test_old_and_damaged_results_are_refused(
    command: str,
    text: str,
    message: str,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / JSON).write_text(text, encoding="utf-8")
    output = ["--output", str(tmp_path)]
    given = [str(tiny_bundle), "--resume"] if command == "--resume" else ["--merge", str(tmp_path / JSON)]
    assert compare.main([*given, *output]) == 2
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|")), said
    assert (tmp_path / JSON).read_text(encoding="utf-8") == text, "nothing is overwritten"


def test_a_result_of_several_runs_is_not_gone_on_with(tmp_path: Path) -> None:
    Store(tmp_path, run("passed"), resume=False)
    document = json.loads((tmp_path / JSON).read_text(encoding="utf-8"))
    document["runs"] *= 2
    (tmp_path / JSON).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match="of another comparison"):
        Store(tmp_path, run("passed"), resume=True)
