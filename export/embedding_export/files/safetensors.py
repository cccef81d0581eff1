"""Opens the safetensors files of a folder, whether single or sharded.

The format is an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then
the bytes of the tensors, without holes or overlaps (documentation of safetensors, "Format").
"""

import json
import mmap
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from embedding_export.errors import CheckpointError
from embedding_export.files.commands import NEW_FOLDER, saving_again
from embedding_export.files.json_files import read_fields
from embedding_export.files.tensors import DType, Tensor

_DTYPES: dict[str, DType] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_MAX_HEADER_BYTES = 100_000_000  # the limit that the safetensors library sets


def _is_nothing(_name: str) -> bool:
    return False


def read_weights(
    folder: Path, left_out: Callable[[str], bool] = _is_nothing, *, checkpoint: Path | None = None
) -> dict[str, Tensor]:
    """Map every tensor of a folder by its name in the file, except those for which `left_out` is true.

    Those may have any type and no axis: only their byte ranges are checked. The precedence is that of
    transformers: `model.safetensors`, then `model.safetensors.index.json` and its shards. `checkpoint` is the
    folder of the whole checkpoint if `folder` lies within it.

    Raises:
        CheckpointError: no weights, weights in another format, or a damaged or inconsistent file.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return read_safetensors(single, left_out)
    if index.exists():
        return _read_shards(index, left_out)
    if other_formats := sorted(
        p.name for pattern in ("*.bin", "*.pt", "*.h5", "*.gguf") for p in folder.glob(pattern)
    ):
        raise CheckpointError(
            f"{folder} has its weights as {', '.join(other_formats[:3])}; expected model.safetensors. Where "
            f"sentence-transformers is installed, one command converts the checkpoint to {NEW_FOLDER}, which "
            f"can be exported: {saving_again(checkpoint or folder)}"
        )
    raise CheckpointError(
        f"{folder} has no weights: expected model.safetensors, or model.safetensors.index.json with its "
        "shards. Fetch the checkpoint again, completely; if its source has pytorch_model.bin instead, one "
        "command, where sentence-transformers is installed, converts it to "
        f"{NEW_FOLDER}: {saving_again(checkpoint or folder)}"
    )


def read_safetensors(path: Path, left_out: Callable[[str], bool] = _is_nothing) -> dict[str, Tensor]:
    """Map the tensors of one safetensors file, except those for which `left_out` is true.

    Raises:
        CheckpointError: missing, truncated, damaged, or a dtype other than F32, BF16 and F16.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path} cannot be opened ({e}). Fetch the file again.") from e
    header, data = _read_header(path, mapping)
    tensors, end = {}, 0
    for begin, stop, name, entry in sorted(_entries(path, header), key=lambda e: e[:3]):
        tensor = None if left_out(name) else _tensor(path, name, entry, data + begin, mapping)
        claimed = f" and take {tensor.nbytes} for {tensor.dtype} {list(tensor.shape)}" if tensor else ""
        if begin != end or stop - begin < 0 or (tensor and stop - begin != tensor.nbytes):
            raise _damaged(path, f"{name} takes bytes {begin} to {stop}, but should begin at {end}{claimed}")
        end = stop
        if tensor:
            tensors[name] = tensor
    if data + end != len(mapping):
        raise _damaged(path, f"it has {len(mapping):,} bytes where its header promises {data + end:,}")
    return tensors


def _read_header(path: Path, mapping: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header without its metadata, and the position of the data in the file."""
    size = int.from_bytes(mapping[:8], "little")
    if len(mapping) < 8 or not 2 <= size <= min(_MAX_HEADER_BYTES, len(mapping) - 8):
        raise _damaged(path, f"a header of {size:,} bytes does not fit a file of {len(mapping):,}")
    try:
        header = json.loads(mapping[8 : 8 + size].decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as e:
        raise _damaged(path, f"its header is not valid JSON ({e})") from e
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, 8 + size


def _entries(path: Path, header: dict[str, Any]) -> list[tuple[int, int, str, dict[str, Any]]]:
    """Every tensor's byte range, name and entry, as the header states them; the file may differ."""
    entries = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _damaged(path, f"the entry of {name} is {str(entry)[:80]}")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
            raise _damaged(path, f"{name} has shape {str(shape)[:80]} and bytes {str(offsets)[:80]}")
        entries.append((offsets[0], offsets[1], name, entry))
    return entries


def _tensor(path: Path, name: str, entry: dict[str, Any], start: int, mapping: mmap.mmap) -> Tensor:
    if str(entry["dtype"]) not in _DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name} has dtype {entry['dtype']}; expected F32, BF16 or F16. Quantized "
            "weights cannot be exported: use the checkpoint they were made from."
        )
    if not entry["shape"]:
        raise CheckpointError(f"{path}: tensor {name} is a scalar, which no part of this model has.")
    return Tensor(name, tuple(entry["shape"]), _DTYPES[entry["dtype"]], path, start, mapping)


def _read_shards(index: Path, left_out: Callable[[str], bool]) -> dict[str, Tensor]:
    weight_map = read_fields(index).nested("weight_map").values
    files = sorted(set(map(str, weight_map.values())))
    if not files or any(PurePath(f).name != f or "\\" in f for f in files):
        raise CheckpointError(
            f"{index}: weight_map names the files {files[:3]}; expected shards in the same folder. Fetch it "
            "again."
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        shard = read_safetensors(index.parent / file, left_out)
        promised = {name for name, where in weight_map.items() if where == file and not left_out(name)}
        if differing := sorted(promised ^ set(shard)):
            raise CheckpointError(
                f"{index.parent / file} does not hold the tensors that {index.name} promises; they differ in "
                f"{', '.join(differing[:3])} ({len(differing)} in all). Files are swapped or of different "
                "versions: fetch the checkpoint again."
            )
        tensors |= shard
    return tensors


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name appears twice")
    return values


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {what}. Fetch the file again.")
