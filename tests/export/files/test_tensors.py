"""Safetensors files, whole and damaged, and the tensors in them."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from embedding_export.errors import CheckpointError
from embedding_export.files.safetensors import read_safetensors, read_weights
from embedding_export.files.tensors import DType, Tensor, fingerprint

TORCH: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DTYPES = list(TORCH)


def saved(folder: Path, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> Path:
    """A file by the safetensors library itself."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / name)
    return folder / name


def packed(header: Any, data: bytes) -> bytes:
    """A file by hand, as wrong as the test wants it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_torch(tmp_path: Path, dtype: DType) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    source = (
        torch.from_numpy(bits.view(np.int16)).view(TORCH[dtype])
        if dtype != "float32"
        else torch.randn(1 << 16)
    )
    source = source.reshape(-1, 64)
    tensor = read_safetensors(saved(tmp_path, {"w": source}))["w"]
    assert (tensor.shape, tensor.dtype, tensor.nbytes) == ((1024, 64), dtype, source.nbytes)
    expected = source.to(torch.float32).numpy()
    np.testing.assert_array_equal(tensor.array(), expected)
    np.testing.assert_array_equal(tensor.rows(1000, 1003), expected[1000:1003])
    assert tensor.rows(5, 5).shape == (0, 64)
    assert tensor.array().dtype == np.float32


def test_float32_is_a_view_and_nothing_can_be_written(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(8, 4), "b": torch.ones(8, dtype=torch.bfloat16)})
    tensors = read_safetensors(path)
    assert np.shares_memory(tensors["w"].rows(0, 4), tensors["w"].rows(2, 6))
    for tensor in tensors.values():
        with pytest.raises(ValueError, match="read-only"):
            tensor.array()[0] = 0


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 9), (3, 2)])
def test_rows_outside_are_refused(tmp_path: Path, start: int, stop: int) -> None:
    tensor = read_safetensors(saved(tmp_path, {"w": torch.ones(8, 4)}))["w"]
    with pytest.raises(IndexError, match="of w, which has 8"):
        tensor.rows(start, stop)


def test_a_header_of_odd_length_leaves_values_right(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4")
    header = json.dumps({"w": entry(0, 24, [2, 3])}).encode()
    for spaces in range(4):
        path = tmp_path / f"{spaces}.safetensors"
        path.write_bytes(packed(header + b" " * spaces, values.tobytes()))
        tensors = read_safetensors(path)
        np.testing.assert_array_equal(tensors["w"].array(), values.reshape(2, 3))
        fingerprint(tensors)


def test_row_ranges_cover_in_order_and_release_keeps_values(tmp_path: Path) -> None:
    source = torch.randn(1000, 300)
    tensor = read_safetensors(saved(tmp_path, {"a": torch.ones(3), "w": source}))["w"]
    ranges = list(tensor.row_ranges(block_bytes=50_000))
    assert [r for start, stop in ranges for r in range(start, stop)] == list(range(1000))
    assert {stop - start for start, stop in ranges[:-1]} == {41}
    assert list(tensor.row_ranges(block_bytes=1))[:2] == [(0, 1), (1, 2)]
    before = tensor.array()
    tensor.release()
    np.testing.assert_array_equal(before, source.numpy())


def test_fingerprint_sees_names_types_shapes_and_bits_but_not_files(tmp_path: Path) -> None:
    a, b = torch.arange(24.0).reshape(4, 6), torch.ones(5)

    def of(folder: str, **tensors: torch.Tensor) -> str:
        return fingerprint(read_safetensors(saved(tmp_path / folder, tensors)))

    whole = of("whole", a=a, b=b)
    parts = {
        name: read_safetensors(saved(tmp_path / name, {name: t}))[name] for name, t in (("b", b), ("a", a))
    }
    assert fingerprint(parts) == whole
    flipped = a.clone()
    flipped.view(torch.int32)[3, 5] ^= 1
    others = [
        of("flipped", a=flipped, b=b),
        of("named", c=a, b=b),
        of("shaped", a=a.reshape(6, 4), b=b),
        of("typed", a=a.view(torch.bfloat16).reshape(4, 12), b=b),
        of("halved", a=a.view(torch.float16).reshape(4, 12), b=b),
        of("fewer", a=a),
    ]
    assert len({whole, *others}) == 7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_are_refused_by_name(tmp_path: Path, dtype: DType, value: float) -> None:
    good = torch.full((300, 7), torch.finfo(TORCH[dtype]).max, dtype=TORCH[dtype])
    bad = good.clone()
    bad[-1, -1] = value
    fingerprint(read_safetensors(saved(tmp_path, {"good": good})))
    path = saved(tmp_path, {"good": good, "layers.3.bad": bad})
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: tensor layers\.3\.bad holds NaN or infinite"
    ):
        fingerprint(read_safetensors(path))


def test_streaming_takes_a_few_megabytes(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.zeros(65536, 512, dtype=torch.bfloat16)})
    tensors = read_safetensors(path)
    tracemalloc.start()
    fingerprint(tensors)
    for start, stop in tensors["w"].row_ranges():
        tensors["w"].rows(start, stop)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tensors["w"].nbytes == 64 << 20
    assert peak < 20 << 20


GOOD = {"a": entry(0, 8), "b": entry(8, 16)}
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be opened"),
    "seven bytes": (b"\0" * 7, "header of 0 bytes does not fit a file of 7"),
    "header longer than file": ((1 << 20).to_bytes(8, "little") + b"{}", "1,048,576 bytes does not fit"),
    "header of 2^63": ((1 << 63).to_bytes(8, "little") + b"{}" * 50, "does not fit a file"),
    "no json": (packed(b"{]" * 4, b""), "not valid JSON"),
    "not utf-8": (packed(b'{"\xff\xfe": 1}', b""), "not valid JSON"),
    "deep": (packed(b'{"a":' * 100_000, b""), "not valid JSON"),
    "a list": (packed([1, 2], b""), "not a JSON object"),
    "a name twice": (
        packed(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4)).encode(),) * 2), b"1234"),
        "twice",
    ),
    "no entry": (packed({"a": 3}, b""), "the entry of a is 3"),
    "no offsets": (packed({"a": {"dtype": "F32", "shape": [1]}}, b"1234"), "the entry of a"),
    "a negative shape": (packed({"a": entry(0, 8, [-2])}, b"0" * 8), r"a has shape \[-2\]"),
    "a true shape": (packed({"a": entry(0, 4, [True])}, b"0" * 4), r"a has shape \[True\]"),
    "three offsets": (packed({"a": entry(0, 8) | {"data_offsets": [0, 4, 8]}}, b"0" * 8), "a has shape"),
    "a huge shape": (packed({"a": entry(0, 8, [1 << 62, 8])}, b"0" * 8), "a takes bytes 0 to 8"),
    "a shape too small": (packed({"a": entry(0, 8, [1])}, b"0" * 8), "should begin at 0 and take 4"),
    "the same offsets": (packed({"a": entry(0, 8), "b": entry(0, 8)}, b"0" * 8), "b takes bytes 0 to 8"),
    "overlapping": (packed({"a": entry(0, 8), "b": entry(4, 12)}, b"0" * 12), "should begin at 8"),
    "a hole": (packed({"a": entry(0, 8), "b": entry(12, 20)}, b"0" * 20), "should begin at 8"),
    "backwards": (packed({"a": entry(8, 0, [2])}, b"0" * 8), "a takes bytes 8 to 0"),
    "truncated": (packed(GOOD, b"0" * 15), "bytes where its header promises"),
    "too long": (packed(GOOD, b"0" * 17), "bytes where its header promises"),
    "a scalar": (packed({"a": entry(0, 4, [])}, b"0" * 4), "tensor a is a scalar"),
    "float8": (
        packed({"a": entry(0, 4, [4], "F8_E4M3")}, b"0" * 4),
        "a has dtype F8_E4M3; expected F32, BF16",
    ),
    "int8": (packed({"a": entry(0, 4, [4], "I8")}, b"0" * 4), "Quantized weights cannot be exported"),
    "a dtype that is a list": (packed({"a": entry(0, 4) | {"dtype": ["F32"]}}, b"0" * 4), "a has dtype"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, fault: str) -> None:
    content, message = DAMAGED[fault]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_weights(tmp_path)
    assert str(path) in str(error.value)


def test_what_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    """A scalar and an unknown type are refused where they are used; a hole is one wherever it is."""
    others = {"tower.bound": entry(8, 12, []), "tower.codes": entry(12, 15, [3], "F8_E4M3")}
    content = {"a": entry(0, 8)} | others | {"b": entry(15, 23)}
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(content, bytes(23)))
    with pytest.raises(CheckpointError, match=r"tower\.bound is a scalar"):
        read_weights(tmp_path)
    assert set(read_weights(tmp_path, lambda name: name.startswith("tower."))) == {"a", "b"}
    for wrong in (entry(15, 14, []), entry(13, 14, [])):
        path.write_bytes(packed(content | {"tower.codes": wrong}, bytes(23)))
        with pytest.raises(CheckpointError, match="should begin at"):
            read_weights(tmp_path, lambda name: name.startswith("tower."))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_of_the_header_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(packed(GOOD | {"__metadata__": {"format": "pt"}}, bytes(16)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 17))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(content)
    try:
        tensors = read_safetensors(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert sum(t.array().nbytes for t in tensors.values() if t.dtype == "float32") <= 16


def shard(folder: Path, **files: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """One tensor for each name in `files` (stem → names), saved as shards with their index."""
    names = [n for held in files.values() for n in held]
    tensors = {n: torch.full((2, 2), float(i)) for i, n in enumerate(names)}
    for stem, held in files.items():
        saved(folder, {n: tensors[n] for n in held}, f"{stem}.safetensors")
    weight_map = {n: f"{stem}.safetensors" for stem, held in files.items() for n in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    expected = shard(tmp_path, one=("a", "b"), two=("c",))
    found = read_weights(tmp_path)
    assert set(found) == set(expected)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.array(), expected[name].numpy())


def test_a_single_file_goes_before_shards_as_in_the_reference(tmp_path: Path) -> None:
    shard(tmp_path, one=("a", "b"))
    saved(tmp_path, {"single": torch.ones(1)})
    assert set(read_weights(tmp_path)) == {"single"}


def swap(folder: Path) -> None:
    one, two = folder / "one.safetensors", folder / "two.safetensors"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def reindex(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        weight_map = json.loads(index.read_text())["weight_map"] | change
        index.write_text(json.dumps({"weight_map": {n: f for n, f in weight_map.items() if f is not None}}))

    return apply


SHARD_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "swapped": (swap, r"one\.safetensors does not hold .* differ in a, b, c \(3 in all\)"),
    "missing": (lambda f: (f / "two.safetensors").unlink(), r"two\.safetensors cannot be opened"),
    "promised": (reindex({"d": "one.safetensors"}), r"one\.safetensors does not hold .* differ in d"),
    "unlisted": (reindex({"a": None}), r"one\.safetensors does not hold .* differ in a"),
    "elsewhere": (reindex({"a": "../one.safetensors"}), r"weight_map names the files \['\.\./one"),
    "absolute": (reindex({"a": "/etc/passwd"}), "weight_map names the files"),
    "a number": (reindex({"a": 3}), r"3 cannot be opened"),
    "no map": (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "weight_map names the files"),
    "no json": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "not valid JSON"),
    "a list": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "expected a JSON object"),
}


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_shards_that_disagree_with_their_index_are_refused(tmp_path: Path, fault: str) -> None:
    shard(tmp_path, one=("a", "b"), two=("c",))
    change, message = SHARD_FAULTS[fault]
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path)


def test_weights_of_other_formats_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights: expected model"):
        read_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin; expected .*save_pretrained"):
        read_weights(tmp_path)


def test_a_folder_instead_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be opened"):
        read_weights(tmp_path)


def test_a_tensor_knows_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(2)})
    tensor: Tensor = read_safetensors(path)["w"]
    assert (tensor.file, tensor.name) == (path, "w")
