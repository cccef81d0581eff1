"""Bundles edited by hand: what no export writes is refused by name, and nothing compared before vouches for
other bytes."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from embedding_runtime import BundleError, Embedder, EngineError, load_manifest
from embedding_runtime.bundle import Manifest
from embedding_runtime.tokenizers.table_file import PREFIX

pytestmark = pytest.mark.usefixtures("cache")
GRAPH, DATA, TABLE = "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.table"
NAN = float("nan")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def replaced(bundle: Path, name: str, content: bytes) -> None:
    """Another file, and a manifest that follows."""
    (bundle / name).write_bytes(content)
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda data: data["files"].update({name: record}))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        *((["golden_tolerance"], v, "golden_tolerance is") for v in ({}, {"any": -1}, {"any": 5})),
        *((["golden_tolerance"], {"any": 1e-4, "x86-7bit": v}, "golden_tolerance is") for v in (NAN, -1, 9)),
        (["golden_tolerance", "any"], NAN, "golden_tolerance is"),
        (["golden_tolerance", "any"], float("inf"), r"golden_tolerance is .*expected numbers from 0 to 0\."),
        (["golden_tolerance", "any"], 10**400, "expected float"),
        (["golden"], [], "golden is empty; expected ids"),
        *((["golden", 0, "ids"], v, "ids of golden is") for v in ([], [-1], [2**40], [4096])),
        *((["golden", 0, "vector_base64"], v, "vector_base64 is") for v in ("AAA=", "é", "", "AAAAAA==")),
        (["buckets"], [0], "buckets is"),
        (["..", "max_seq_length"], 0, "max_seq_length is 0; expected 3 tokens or more"),
        (["..", "max_seq_length"], 10**30, "max_seq_length is"),
        *((["..", "embedding_dim"], v, r"is .*; expected") for v in (0, -1, 32, 128, 10**30)),
        *((["..", "dims"], v, "dims is .*; expected numbers from 1 to 64") for v in ([0], [-1], [64, 65])),
        *((["..", "truncate_dim"], v, "truncate_dim is .*; expected 1 to 64") for v in (0, -5, 9999)),
        (["..", "default_prompt_name"], "nope", "default_prompt_name is nope; expected one of"),
        *((["..", "tokenizer", "pad_id"], v, "pad_id is") for v in (-1, 99999, 10**30)),
        (["..", "tokenizer", "eos_id"], 5, "ends of golden ids is"),
        (["..", "tokenizer", "golden"], [], "ends of golden ids is"),
        (["..", "tokenizer", "vocab_size"], 10**9, "vocab_size is"),
        *((["file"], v, "outside the bundle") for v in ("onnx/a\0b", "onnx/\ud800", "onnx/a\nb")),
    ],
)
def test_what_no_export_writes_is_named(bundle: Path, path: list[Any], value: Any, said: str) -> None:
    def change(data: dict[str, Any]) -> None:
        place, names = (data, path[1:]) if path[0] == ".." else (data["graphs"][0], path)
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        if names == ["file"]:
            data["files"][value] = data["files"][GRAPH]

    edit(bundle, change)
    with pytest.raises(BundleError, match=said):
        Embedder(bundle)


def test_a_graph_twice_is_refused(bundle: Path) -> None:
    edit(bundle, lambda data: data["graphs"].append(data["graphs"][0]))
    with pytest.raises(BundleError, match=r"graphs is .*; expected no graph twice"):
        Embedder(bundle)


def test_a_field_twice_is_refused(bundle: Path) -> None:
    """Readers take either; the later one would have won in silence."""
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    with pytest.raises(BundleError, match="the field 'max_seq_length' appears twice"):
        Manifest.from_json(text.replace('"max_seq_length": ', '"max_seq_length": 7, "max_seq_length": ', 1))


@pytest.mark.parametrize("name", ["manifest.json", "parity.json"])
def test_json_without_a_bottom(bundle: Path, name: str) -> None:
    (bundle / name).write_text("[" * 200_000)
    with pytest.raises(BundleError, match=name):
        Embedder(bundle)


@pytest.mark.parametrize("name", ["manifest.json", "parity.json", GRAPH])
def test_pipes_and_devices_are_not_read(bundle: Path, name: str) -> None:
    """Reading them would never end."""
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)
    if name == GRAPH:
        edit(bundle, lambda data: data["files"][GRAPH].update(size=0))
    with pytest.raises(BundleError, match="not a file"):
        Embedder(bundle)


def test_a_path_that_no_system_has() -> None:
    with pytest.raises(BundleError, match="null byte"):
        load_manifest(Path("a\0b"))


def nudged(content: bytes) -> bytes:
    """The first weights, a little larger."""
    values = np.frombuffer(content, "<f4").copy()
    values[: len(values) // 4] *= 1.5
    return values.tobytes()


@pytest.mark.filterwarnings("error")  # no notice of a cache before the error
@pytest.mark.parametrize("device_cache", [True, False])
def test_other_weights_are_compared_anew(bundle: Path, device_cache: bool) -> None:
    """Neither what was found of the earlier files nor what was prepared of them speaks for the new ones."""
    Embedder(bundle, device_cache=device_cache)
    replaced(bundle, DATA, nudged((bundle / DATA).read_bytes()))
    with pytest.raises(BundleError, match="off by"):
        Embedder(bundle, device_cache=device_cache)


@pytest.mark.filterwarnings("error")  # no notice of a cache before the error
def test_another_graph_is_not_answered_for_by_the_cache(bundle: Path) -> None:
    """A graph that gives nothing: its predecessor, prepared on this device, must not stand in for it."""
    Embedder(bundle, device_cache=True)
    replaced(bundle, GRAPH, b"")
    with pytest.raises(EngineError, match="does not load"):
        Embedder(bundle, device_cache=True)


@pytest.mark.parametrize("names", [[], ["NOTICE"]])
def test_weights_that_nothing_checks_are_refused(bundle: Path, names: list[str]) -> None:
    """Even if they are the right ones, and have been compared before."""
    Embedder(bundle)
    edit(bundle, lambda data: data["graphs"][0].update(external_data=names))
    with pytest.raises(BundleError, match=rf"has weights in \['{DATA}'\], which the manifest does not name"):
        Embedder(bundle)


def test_another_padding_is_compared_anew(litert_bundle: Path, tmp_path: Path) -> None:
    """A LiteRT graph finds the padding by its id: with another one it reads the padding too."""
    bundle = Path(shutil.copytree(litert_bundle, tmp_path / "bundle"))
    options: dict[str, Any] = {"format": "litert", "precision": "fp32", "threads": 1, "device_cache": False}
    Embedder(bundle, **options)
    edit(bundle, lambda data: data["tokenizer"].update(pad_id=5))
    with pytest.raises(BundleError, match="off by"):
        Embedder(bundle, **options)


def test_vectors_of_another_size_are_refused(bundle: Path) -> None:
    """Also where nothing is compared."""
    model = onnx.load(str(bundle / GRAPH), load_external_data=False)
    for node in model.graph.node:
        node.output[:] = ["whole" if o == "sentence_embedding" else o for o in node.output]
    ends = [onnx.numpy_helper.from_array(np.array([n]), name) for n, name in ((0, "a"), (16, "b"), (1, "c"))]
    model.graph.initializer.extend(ends)
    model.graph.node.append(onnx.helper.make_node("Slice", ["whole", "a", "b", "c"], ["sentence_embedding"]))
    (output,) = (o for o in model.graph.output if o.name == "sentence_embedding")
    output.type.tensor_type.shape.dim[1].dim_value = 16
    replaced(bundle, GRAPH, model.SerializeToString())
    embedder = Embedder(bundle, allow_failed=True)
    with pytest.raises(EngineError, match=r"vectors of shape \(1, 16\); the manifest says \(1, 64\)"):
        embedder.encode("a")


@pytest.mark.parametrize(
    ("section", "value"),
    [("added_first_child", 2**31), ("added_char", 2**31), ("piece_slots", 2**31), ("merge_slots", None)],
)
def test_a_table_that_leads_nowhere(bundle: Path, section: str, value: int | None) -> None:
    """Sound by its hash: numbers beyond its sections, or a section without any."""
    content = bytearray((bundle / TABLE).read_bytes())
    _, _, size, _ = PREFIX.unpack_from(content)
    header = json.loads(content[PREFIX.size : PREFIX.size + size])
    place = header["sections"][section]
    if value is None:
        place["count"] = 0
        raw = json.dumps(header, separators=(",", ":")).encode().ljust(size)
        content[: PREFIX.size + size] = PREFIX.pack(b"EMBTABLE", 1, size, zlib.crc32(raw)) + raw
    else:
        numbers = np.full(place["count"], value, "<u4").tobytes()
        content[place["offset"] : place["offset"] + len(numbers)] = numbers
    replaced(bundle, TABLE, bytes(content))
    with pytest.raises(BundleError, match=TABLE):
        Embedder(bundle)
