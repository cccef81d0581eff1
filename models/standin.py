"""Writes stand-ins: checkpoints with the file layout of an EmbeddingGemma, of either, and random weights.

The real weights are gated or large and cannot live in a repository; a stand-in exercises every code path
that they do. Knows nothing of the values in tensors (`standin_weights`, `standin2_weights`), of config keys
(`standin_config`, `standin2_config`) or of pieces (`standin_tokenizer`), and needs numpy alone.
"""

import argparse
import dataclasses
import json
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import standin2_config
import standin2_weights
import standin_config
import standin_tokenizer
import standin_weights
from standin_config import Dialect
from standin_weights import Array

Model = Literal["embeddinggemma", "embeddinggemma-2"]
Size = Literal["tiny", "full"]
Dtype = Literal["float32", "bfloat16", "float16"]
Layout = Dialect | standin2_config.Layout
Sizes = dict[str, tuple[int, ...]]

SHAPES = {"tiny": standin_weights.TINY, "full": standin_weights.FULL}
SHAPES_2 = {"tiny": standin2_weights.TINY, "full": standin2_weights.FULL}
LAYOUTS: dict[Model, tuple[Layout, ...]] = {
    "embeddinggemma": get_args(Dialect),
    "embeddinggemma-2": get_args(standin2_config.Layout),
}


class Values(Protocol):
    """Where the values of tensors come from."""

    def blocks(self, name: str, size: tuple[int, ...]) -> Iterator[Array]:
        """The tensor `name` of shape `size` in blocks of whole rows, float32."""


@dataclass(frozen=True)
class Options:
    """What to write; `sliding_window` replaces the size's own value in config.json.

    `dialect` is the layout of the files; None is the published one. `outliers` changes the size of
    activations but not the vectors; `plain` leaves out what makes faults show (`standin_weights.Weights`);
    both are the first model's.
    """

    size: Size = "tiny"
    model: Model = "embeddinggemma"
    seed: int = 0
    dialect: Layout | None = None
    dtype: Dtype = "float32"
    shards: int = 1
    outliers: bool = False
    plain: bool = False
    sliding_window: int | None = None


def write(out: Path, options: Options) -> None:
    """Write a checkpoint as the folder `out`, which appears only when it is complete.

    Raises FileExistsError when `out` is there and not an empty folder, and ValueError for a number of
    shards outside 1 to the number of tensors.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists: expected no such path or an empty folder; remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".standin-", dir=out.parent) as scratch:
        folder = Path(scratch) / "checkpoint"
        _fill(folder, options)
        folder.rename(out)


def _fill(folder: Path, options: Options) -> None:
    dialect = options.dialect or LAYOUTS[options.model][0]
    if dialect not in LAYOUTS[options.model]:
        raise ValueError(f"dialect is {dialect}: expected one of {', '.join(LAYOUTS[options.model])}")
    folder.mkdir()
    (folder / "README.md").write_text(standin_config.CARD, encoding="utf-8")
    if dialect == "transformers-4" or dialect == "transformers-5":
        _fill_first(folder, options, dialect)
    else:
        _fill_second(folder, options, dialect)


def _fill_first(folder: Path, options: Options, dialect: Dialect) -> None:
    shape = SHAPES[options.size]
    if options.sliding_window is not None:
        shape = dataclasses.replace(shape, sliding_window=options.sliding_window)
    _documents(folder, standin_config.documents(shape, dialect, options.dtype))
    for stage, _ in standin_config.STAGES:
        (folder / stage).mkdir(exist_ok=True)
    names = standin_config.token_names(dialect)
    standin_tokenizer.write(folder / "tokenizer.json", shape.vocab, options.seed, names)
    weights = standin_weights.Weights(shape, options.seed, options.outliers, options.plain)
    _write_encoder(folder, standin_weights.encoder(shape), weights, options)
    for stage, size in standin_weights.dense(shape).items():
        target = folder / stage / "model.safetensors"
        _safetensors(target, {"linear.weight": size}, weights, options.dtype, (f"{stage}.", ""))


def _fill_second(folder: Path, options: Options, layout: standin2_config.Layout) -> None:
    if options.outliers or options.plain:
        raise ValueError("outliers and plain are options of embeddinggemma alone")
    shape = SHAPES_2[options.size]
    if options.sliding_window is not None:
        shape = dataclasses.replace(shape, sliding_window=options.sliding_window)
    _documents(folder, standin2_config.documents(shape, layout, options.dtype))
    if layout == "published":
        (folder / "chat_template.jinja").write_text(standin2_config.TEMPLATE, encoding="utf-8")
    names = standin_tokenizer.GEMMA_4
    standin_tokenizer.write(folder / "tokenizer.json", shape.vocab, options.seed, names)
    prefix = "" if layout == "text" else "language_model."
    sizes = {f"{prefix}{name}": size for name, size in standin2_weights.encoder(shape).items()}
    if layout == "published":
        sizes |= standin2_weights.towers()
    _write_encoder(folder, sizes, standin2_weights.Weights(shape, options.seed), options, ("", prefix))


def _documents(folder: Path, documents: dict[str, Any]) -> None:
    for name, document in documents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        _json(folder / name, document)


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_encoder(
    folder: Path, sizes: Sizes, weights: Values, options: Options, prefixes: tuple[str, str] = ("", "")
) -> None:
    """model.safetensors, or shards of it with their index."""
    names = list(sizes)
    if not 1 <= options.shards <= len(names):
        raise ValueError(f"shards is {options.shards}: expected 1 to {len(names)}, the number of tensors")
    if options.shards == 1:
        _safetensors(folder / "model.safetensors", sizes, weights, options.dtype, prefixes)
        return
    index: dict[str, str] = {}
    for i, part in enumerate(np.array_split(names, options.shards)):
        file = f"model-{i + 1:05d}-of-{options.shards:05d}.safetensors"
        held = {str(name): sizes[str(name)] for name in part}
        index |= dict.fromkeys(held, file)
        _safetensors(folder / file, held, weights, options.dtype, prefixes)
    total = sum(_bytes(size, options.dtype) for size in sizes.values())
    _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _safetensors(
    path: Path, sizes: Sizes, weights: Values, dtype: Dtype, prefixes: tuple[str, str] = ("", "")
) -> None:
    """Write the file's tensors block by block.

    A name in `weights` has the first of `prefixes` in place of the second, which it has in the file.

    The format: 8 bytes of header length, the JSON header, the tensors' bytes in its order
    (https://github.com/huggingface/safetensors#format).
    """
    kind = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, size in sizes.items():
        end = offset + _bytes(size, dtype)
        header[name] = {"dtype": kind, "shape": list(size), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, size in sizes.items():
            for block in weights.blocks(prefixes[0] + name.removeprefix(prefixes[1]), size):
                file.write(_encode(block, dtype))


def _bytes(size: tuple[int, ...], dtype: Dtype) -> int:
    return int(np.prod(size)) * (4 if dtype == "float32" else 2)


def _encode(block: Array, dtype: Dtype) -> bytes:
    """Little-endian bytes; bfloat16 is the upper half of float32, rounded to nearest, ties to even."""
    if dtype == "float32":
        return block.astype("<f4").tobytes()
    if dtype == "float16":
        return block.astype("<f2").tobytes()
    bits = block.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="standin", description="Write a random-weight checkpoint in EmbeddingGemma's file layout."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument("--size", choices=get_args(Size), required=True)
    parser.add_argument("--model", choices=get_args(Model), default="embeddinggemma")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dialect",
        choices=[layout for layouts in LAYOUTS.values() for layout in layouts],
        help="the layout of the files, by default the published one. Of embeddinggemma: transformers-4 or "
        "transformers-5 (as sentence-transformers 6.2 saves it); of embeddinggemma-2: published, composite "
        "(saved after loading for text alone) or text",
    )
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32")
    parser.add_argument("--shards", type=int, default=1, help="number of weight files of the encoder")
    parser.add_argument("--outliers", action="store_true", help="a few large activations, the same vectors")
    parser.add_argument(
        "--plain", action="store_true", help="plain random weights: rounding errors do not grow with depth"
    )
    parser.add_argument("--sliding-window", type=int, help="another sliding_window in config.json")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = vars(_parser().parse_args(argv))
    out: Path = arguments.pop("out")
    try:
        write(out, Options(**arguments))
    except (OSError, ValueError) as error:
        print(f"standin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
