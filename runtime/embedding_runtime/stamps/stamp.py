"""The stamp of vectors: model, space, size, precision, prompt."""

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray

from embedding_runtime.bundle import Graph, Manifest
from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding import prompts as prompting
from embedding_runtime.encoding.prompts import PromptChoice
from embedding_runtime.errors import InputError
from embedding_runtime.quantization import check_precision, check_ranges

STAMP_VERSION = 1

Side = Literal["query", "document"]


@dataclass(frozen=True)
class Stamp:
    """Says how vectors were made: vectors whose stamps are equal, except for `graphs`, may share an index.

    Attributes:
        space_id: of the bundle; vectors of one space may be compared.
        model: the checkpoint's name, for people.
        dim: number of components kept of each vector; binary vectors have them in dim / 8 bytes.
        vector_precision: float32, int8, uint8, binary or ubinary, as `quantize_embeddings` makes them.
        normalized: whether vectors had length 1 before they were quantized.
        graphs: the graphs that made them, e.g. onnx/int8.
        prompt: the text before each input, without its title; None if only token ids are known.
        side: "query" or "document" by the prompt, if the bundle has different prompts for them.
        ranges_sha256: of the ranges of int8 and uint8 vectors, float32 (2, dim) in little-endian order.
    """

    space_id: str
    model: str
    dim: int
    vector_precision: str
    normalized: bool
    graphs: tuple[str, ...]
    prompt: str | None
    side: Side | None
    ranges_sha256: str | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        graph: Graph,
        dim: int,
        prompt: str | None,
        prompts: Mapping[str, str],
        precision: str = "float32",
        ranges: NDArray[Any] | None = None,
    ) -> "Stamp":
        """The stamp of a graph's vectors; `prompts` are all of the bundle's prompts, by name.

        Raises:
            InputError: `ranges` are not ranges of such vectors.
        """
        return cls(
            space_id=manifest.space_id,
            model=manifest.source.name,
            dim=dim,
            vector_precision=precision,
            normalized=any(stage.type == "normalize" for stage in manifest.stages),
            graphs=(graph.key,),
            prompt=prompt,
            side=_side(prompt, prompts),
            ranges_sha256=None if ranges is None else _digest(ranges, dim),
        )

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any], where: str) -> "Stamp":
        """Read what `to_json` wrote; `where` begins messages.

        Raises:
            InputError: a field is missing, unknown, or of another kind, or the version is another.
        """
        version = fields.get("stamp_version")
        if version != STAMP_VERSION or isinstance(version, bool):
            newer = type(version) is int and version > STAMP_VERSION
            raise InputError(
                f"{where} has a stamp of version {version!r}; this version reads {STAMP_VERSION}. "
                + ("Upgrade embedding-edge." if newer else "Embed the texts again, or write its stamp again.")
            )
        values = {name: value for name, value in fields.items() if name != "stamp_version"}
        types = typing.get_type_hints(cls)
        wrong = sorted(set(values) ^ set(types)) or [n for n, v in values.items() if not _is(types[n], v)]
        if wrong:
            raise InputError(
                f"{where} has a damaged stamp: {wrong[0]!r} is {str(values.get(wrong[0], 'missing'))[:60]}. "
                "Embed the texts again, or write its stamp again."
            )
        return cls(**{**values, "graphs": tuple(values["graphs"])})

    def to_json(self) -> str:
        """One line of ASCII."""
        return json.dumps({"stamp_version": STAMP_VERSION, **asdict(self)})

    def join(self, added: "Stamp", where: str) -> "Stamp":
        """The stamp of an index that holds these vectors and those `added`.

        Raises:
            InputError: they do not belong in one index; the message says what `where` holds and what would be
                added.
        """
        for name, (what, advice) in _MUST_AGREE.items():
            held, new = getattr(self, name), getattr(added, name)
            if held != new:
                raise InputError(
                    f"{where} holds vectors {what.format(held, self)}; those to add are "
                    f"{what.format(new, added)}. {advice.format(held, self)}"
                )
        return replace(self, graphs=tuple(dict.fromkeys((*self.graphs, *added.graphs))))


_MUST_AGREE = {
    "space_id": (
        "of {1.model} (space {0:.12})",
        "Their scores would mean nothing: use a bundle of that model, or another file.",
    ),
    "dim": ("of {0} components", "Ask for {0} components (embed-text --dim {0}), or use another file."),
    "vector_precision": (
        "in {0}",
        "Ask for {0} (embed-text --vector-precision {0}), or use another file.",
    ),
    "ranges_sha256": ("with ranges {0!s:.12}", "Give the ranges that the file was made with (--ranges)."),
    "normalized": ("with normalized {0}", "Use another file."),
    "prompt": (
        "with the prompt {0!r} (side: {1.side})",
        "Give the prompt of the file (embed-text --prompt {0!r}), or use another file.",
    ),
}


def make_stamp(
    embedder: Embedder,
    task: str | None = "document",
    prompt: str | None = None,
    precision: str | None = None,
    ranges: NDArray[Any] | None = None,
) -> Stamp:
    """The stamp of vectors that `embedder` gives now, by default those of `encode_document`.

    Args:
        task, prompt: as for `encode`; a prompt takes precedence over a task.
        precision, ranges: of the vectors, as for `quantize_embeddings`.

    Raises:
        InputError: an unknown task or precision, or int8 and uint8 without ranges.
    """
    level = check_precision(precision)
    if level in ("int8", "uint8") and ranges is None:
        raise InputError(f"Vectors in {level} mean nothing without their ranges: pass ranges too.")
    choice = PromptChoice(prompt, None, None if prompt is not None else task)
    text = prompting.resolve(
        choice, embedder.prompts, embedder.manifest.aliases, embedder.default_prompt_name
    )
    dim = embedder.get_embedding_dimension()
    return Stamp.of(embedder.manifest, embedder.graph, dim, text, embedder.prompts, level, ranges)


def _side(prompt: str | None, prompts: Mapping[str, str]) -> Side | None:
    """The side of a prompt; None if queries and documents share a prompt, or this is neither's."""
    query, document = (
        next((prompts[n] for n in names if n in prompts), "")
        for names in (prompting.QUERY_NAMES, prompting.DOCUMENT_NAMES)
    )
    if query == document or prompt not in (query, document):
        return None
    return "query" if prompt == query else "document"


def _digest(ranges: NDArray[Any], dim: int) -> str:
    return hashlib.sha256(check_ranges(ranges, dim).astype("<f4").tobytes()).hexdigest()


def _is(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
    allowed = typing.get_args(kind) or (kind,)
    if Side in allowed:
        return value is None or value in typing.get_args(Side)
    return type(value) in allowed
