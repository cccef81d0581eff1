"""The arguments of one `encode` call, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict

from embedding_runtime.bundle import Format, Precision
from embedding_runtime.encoding.inputs import Texts
from embedding_runtime.encoding.overflow import POLICIES, Overflow
from embedding_runtime.encoding.tensors import torch_loaded
from embedding_runtime.errors import InputError, InputTypeError
from embedding_runtime.opening.integrity import Verify
from embedding_runtime.quantization import VectorPrecision, check_precision
from embedding_runtime.similarity import SimilarityName

OutputValue = Literal["sentence_embedding", "token_embeddings"] | None
Device = Literal["cpu"]


class VectorOptions(TypedDict, total=False):
    """Keyword arguments of every `encode` method; meanings and defaults are in `Embedder.encode`."""

    precision: VectorPrecision | None
    convert_to_tensor: Literal[False]
    device: Device | None
    normalize_embeddings: bool | None
    truncate_dim: int | None
    pool: None
    chunk_size: None
    task: str | None
    dim: int | None
    overflow: Overflow | None
    allow_special: bool
    sentences: Texts | None


class EncodeOptions(VectorOptions, total=False):
    """Also the arguments that change the kind of result."""

    output_value: OutputValue
    convert_to_numpy: bool


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of `Embedder.load`; meanings and defaults are in `Embedder`."""

    format: Format | None
    precision: Precision | None
    threads: int | None
    device: Device | None
    prompts: dict[str, str] | None
    default_prompt_name: str | None
    similarity_fn_name: SimilarityName | None
    truncate_dim: int | None
    overflow: Overflow
    verify: Verify
    allow_failed: bool
    device_cache: bool | None


@dataclass(frozen=True)
class Options:
    """The keyword arguments with their defaults."""

    batch_size: int = 32
    show_progress_bar: bool | None = None
    output_value: OutputValue = "sentence_embedding"
    precision: VectorPrecision | None = "float32"
    convert_to_numpy: bool = True
    convert_to_tensor: bool = False
    device: Device | None = None
    normalize_embeddings: bool | None = None
    truncate_dim: int | None = None
    pool: None = None
    chunk_size: None = None
    task: str | None = None
    dim: int | None = None
    overflow: Overflow | None = None
    allow_special: bool = False
    sentences: Texts | None = None

    @classmethod
    def of(cls, batch_size: int, show_progress_bar: bool | None, arguments: Mapping[str, Any]) -> "Options":
        """The given arguments as checked options.

        Raises:
            InputError, InputTypeError: an unknown argument, or one that cannot be honoured.
        """
        names = {f.name for f in fields(cls)}
        if unknown := sorted(set(arguments) - names):
            raise InputError(f"encode() has no arguments {unknown}; expected some of {sorted(names)}.")
        options = cls(batch_size, show_progress_bar, **arguments)
        options.check()
        return options

    def check(self) -> None:
        """Refuse values that cannot be honoured.

        Raises:
            InputError, InputTypeError: the message names the argument, its value and the possible values.
        """
        check_whole("batch_size", self.batch_size)
        check_precision(self.precision)
        check_device(self.device)
        if self.output_value not in ("sentence_embedding", "token_embeddings", None):
            raise InputError(
                f"output_value is {self.output_value!r}; expected 'sentence_embedding', "
                "'token_embeddings' or None."
            )
        if self.convert_to_tensor and torch_loaded() is None:
            raise InputError(
                "convert_to_tensor=True needs PyTorch, which this runtime does not import. Use the NumPy "
                "array, or import torch first if it is installed."
            )
        if self.pool is not None or self.chunk_size is not None:
            raise InputError(
                "pool and chunk_size distribute work over processes, which this runtime does not do. Leave "
                "them out and set threads when loading."
            )
        if self.overflow is not None:
            check_overflow(self.overflow)
        if self.output_value != "sentence_embedding" and self.precision not in (None, "float32"):
            raise InputError(f"precision {self.precision!r} is for output_value='sentence_embedding' only.")

    def with_defaults(self, dim: int | None, overflow: Overflow) -> "Options":
        """These options, with `dim` and `overflow` as defaults.

        Raises:
            InputError: `dim` and `truncate_dim` differ.
        """
        requested = self.requested_dim()
        return replace(
            self,
            dim=dim if requested is None else requested,
            truncate_dim=None,
            overflow=self.overflow or overflow,
        )

    def requested_dim(self) -> int | None:
        """`dim` or `truncate_dim`, which mean the same.

        Raises:
            InputError: both are given and differ.
        """
        if self.dim is not None and self.truncate_dim is not None and self.dim != self.truncate_dim:
            raise InputError(
                f"dim is {self.dim} and truncate_dim is {self.truncate_dim}; they mean the same, pass one."
            )
        return self.truncate_dim if self.dim is None else self.dim


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuse a value that is not a whole number from `least` to `most`.

    Raises:
        InputTypeError: not an int.  InputError: out of range.
    """
    limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} is {value!r}; expected an int {limits}.")
    if value < least or (most is not None and value > most):
        raise InputError(f"{name} is {value}; expected an int {limits}.")


def check_device(device: Any) -> None:
    """Refuse any device but the CPU.

    Raises:
        InputError: another device.
    """
    if device is not None and str(device) != "cpu":
        raise InputError(
            f"device is {device!r}; this runtime runs on the CPU only. Pass 'cpu' or leave it out."
        )


def check_overflow(overflow: str) -> None:
    """Refuse an unknown overflow policy.

    Raises:
        InputError: not one of `POLICIES`.
    """
    if overflow not in POLICIES:
        raise InputError(f"overflow is {overflow!r}; expected one of {list(POLICIES)}.")
