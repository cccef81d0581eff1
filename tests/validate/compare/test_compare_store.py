"""Going on with a run: the same plan and files, the verdicts of now; what is damaged or old is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime.errors import InputError
from embedding_validate.compare import cli as compare
from embedding_validate.compare.document.document import (
    Document,
    GraphEntry,
    LoadAverage,
    ManifestVerdict,
    Run,
    RunMachine,
    RunPlan,
)
from embedding_validate.compare.document.store import BASE, JSON, SchemaError, Store, dumps, load


def run(verdict: str, files: int = 1, started: str = "today") -> Run:
    said = ManifestVerdict("manifest.json", verdict, None, 9, None, None)
    system = GraphEntry(
        "onnx/int8", "bundle", "b", "onnx", "int8", "v", {}, files, 1, parts=None, buckets=(), parity=said
    )
    return Run(
        label="board",
        origin="measured",
        started=started,
        finished=None,
        complete=False,
        command="compare-embedding b",
        plan=RunPlan(("onnx/int8",), ("64",), (1,), "onnx/int8", "onnx/int8", 5, seconds=1, limit=300),
        machine=RunMachine("Linux", "x", "CPU", "2", "3.11", "board"),
        versions={},
        load_average=LoadAverage((0.0, 0.0, 0.0), None),
        bundles=(),
        systems=(system,),
    )


def test_a_graph_that_was_validated_meanwhile(tmp_path: Path) -> None:
    Store(tmp_path, run("not run"), resume=False)
    found = Store(tmp_path, run("passed", started="tomorrow"), resume=True).run
    (system,) = found.systems
    assert isinstance(system, GraphEntry) and system.parity.status == "passed"
    assert (found.started, found.resumed) == ("today", ("tomorrow",))


def test_another_graph_is_another_comparison(tmp_path: Path) -> None:
    Store(tmp_path, run("not run"), resume=False)
    with pytest.raises(InputError, match="other systems"):
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


def test_a_document_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    """Whole numbers stay whole where seconds may be fractions."""
    path = tmp_path / JSON
    path.write_text(dumps(Document((run("passed"),))), encoding="utf-8")
    assert '"limit": 300' in path.read_text(encoding="utf-8")
    assert dumps(load(path)) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(hue=1), r"runs\[0\] has fields that are not known: hue"),
        (lambda r: r.pop("machine"), r"runs\[0\] lacks machine"),
        (lambda r: r.update(complete="yes"), r"runs\[0\]\.complete is 'yes'; expected bool"),
        (lambda r: r["plan"].update(threads=[1, True]), r"plan\.threads\[1\] is 'True'; expected int"),
        (lambda r: r["systems"][0].update(kind="hand"), r"systems\[0\] is .*; expected GraphEntry or"),
        (lambda r: r["systems"][0]["parity"].update(status=None), r"parity\.status is 'None'; expected str"),
        (lambda r: r.update(cases={}), r"runs\[0\]\.cases is '{}'; expected"),
    ],
)
def test_other_fields_than_these_are_refused(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    data = Document((run("passed"),)).to_json()
    change(data["runs"][0])
    (tmp_path / JSON).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SchemaError, match=message):
        load(tmp_path / JSON)
