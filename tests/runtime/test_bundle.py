"""The manifest: what it refuses, and that it says the same after a round trip."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import Embedder
from embedding_runtime.bundle import GlobalLayers, GoldenVector, Manifest, bundle_graphs, load_manifest
from embedding_runtime.errors import BundleError


@pytest.fixture
def data(tiny_bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_a_round_trip_changes_nothing(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_graphs_know_where_they_lie_and_how_long_texts_may_be(tiny_bundle: Path) -> None:
    """Buckets in any order; a model may end before the largest of them."""
    manifest = load_manifest(tiny_bundle)
    (found,) = bundle_graphs(tiny_bundle, manifest)
    assert found.key == "onnx/fp32"
    assert found.path.is_file() and len(found.sizes) == 2
    assert found.sizes == {n: (tiny_bundle / n).stat().st_size for n in found.sizes}
    assert tiny_bundle / next(iter(found.sizes)) == found.path
    longest = manifest.max_seq_length
    for buckets, expected in (((), longest), ((64, 32), 64), ((32, longest + 1), longest)):
        graph = dataclasses.replace(found.graph, buckets=buckets)
        assert dataclasses.replace(found, graph=graph).max_length == expected


def test_golden_vectors_keep_every_bit() -> None:
    vector = np.random.default_rng(0).standard_normal(33).astype(np.float32)
    golden = GoldenVector.of([2, 5, 1], vector)
    assert golden.ids == (2, 5, 1)
    np.testing.assert_array_equal(golden.vector, vector)
    assert golden.vector.dtype == np.float32


def test_a_missing_folder_and_a_missing_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\x00\x01"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=r"not valid JSON|schema_version"):
        Manifest.from_json(text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="cannot be read"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("version", "advice"),
    [(3, "Upgrade"), (0, "Export"), ("1", "Export"), (True, "Export"), (None, "Export")],
)
def test_another_schema_is_refused(data: dict[str, Any], version: Any, advice: str) -> None:
    with pytest.raises(BundleError, match=f"reads 1 to 2.*{advice}"):
        Manifest.from_json(json.dumps({**data, "schema_version": version}))


def test_layers_of_another_shape_have_a_schema_of_their_own(data: dict[str, Any]) -> None:
    """A version that knows the first schema alone refuses it by its number, and reads all others as ever."""
    own = {"global_layers": {"num_key_value_heads": 1, "head_dim": 512}, "per_layer_size": 256}
    assert data["schema_version"] == 1 and not own.keys() & data["architecture"].keys()
    second = data | {"schema_version": 2, "architecture": data["architecture"] | own}
    manifest = Manifest.from_json(json.dumps(second))
    assert manifest.architecture.global_layers == GlobalLayers(1, 512)
    assert json.loads(manifest.to_json()) == second
    for wrong in (second | {"schema_version": 1}, data | {"schema_version": 2}):
        with pytest.raises(BundleError, match=r"has schema_version \d, but its architecture"):
            Manifest.from_json(json.dumps(wrong))


def test_unknown_and_missing_fields_are_named(data: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match=r"unknown fields \['flavour'\]"):
        Manifest.from_json(json.dumps({**data, "flavour": 1}))
    del data["source"]["dtype"]
    with pytest.raises(BundleError, match=r"source lacks the fields \['dtype'\]"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["max_seq_length"], "2048", "expected int"),
        (["max_seq_length"], True, "expected int"),
        (["dims"], [64, "32"], r"dims\[1\]"),
        (["prompts", "query"], None, "expected str"),
        (["similarity_fn_name"], "hamming", "expected one of"),
        (["stages"], {}, "stages"),
        (["graphs", 0, "parity"], [], "expected an object"),
        (["graphs", 0, "golden_tolerance", "any"], "big", "expected float"),
    ],
)
def test_wrong_types_are_named(data: dict[str, Any], path: list[Any], value: Any, said: str) -> None:
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BundleError, match=said):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "C:\\x", "onnx\\model.onnx", ""])
def test_a_path_that_leaves_the_bundle_is_refused(data: dict[str, Any], name: str) -> None:
    data["files"][name] = data["files"]["NOTICE"]
    with pytest.raises(BundleError, match="outside the bundle"):
        Manifest.from_json(json.dumps(data))


def test_a_graph_without_hashes_is_refused(data: dict[str, Any]) -> None:
    del data["files"][data["graphs"][0]["external_data"][0]]
    with pytest.raises(BundleError, match="no size and hash"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.table"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_file_never_gives_a_vector(
    tiny_bundle: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """One flipped bit, the last bytes missing, or the whole file: `Embedder.load` names it."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-5])
    with pytest.raises(BundleError, match=Path(name).name):
        Embedder.load(bundle)
