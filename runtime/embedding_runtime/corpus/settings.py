"""How a folder of Parquet files is embedded: the same for every worker of a cluster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from numpy.typing import NDArray

from embedding_runtime.bundle import Format, Precision
from embedding_runtime.embed_text.files.rows import DEFAULT_TEXT_FIELD, Fields
from embedding_runtime.embed_text.job import Plan
from embedding_runtime.embed_text.plan import make_plan
from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding.options import Options
from embedding_runtime.encoding.overflow import Overflow
from embedding_runtime.errors import InputError, InputTypeError
from embedding_runtime.quantization import VectorPrecision


class CorpusOptions(TypedDict, total=False):
    """Keyword arguments of `embed_files`; they mean what `embed-text`'s options of these names mean."""

    text_field: str
    title_field: str | None
    id_field: str | None
    task: str | None
    prompt: str | None
    dim: int | None
    format: Format | None
    precision: Precision | None
    vector_precision: VectorPrecision
    ranges: NDArray[Any] | None
    overflow: Overflow
    on_error: Literal["stop", "null"]


@dataclass(frozen=True)
class CorpusSettings:
    """The bundle, the folders as every worker sees them, threads of each worker, and the options."""

    bundle: str
    source: str
    output: str
    threads: int
    options: CorpusOptions = field(default_factory=CorpusOptions)

    @classmethod
    def of(
        cls,
        bundle: str | Path,
        source: str | Path,
        output: str | Path,
        threads: int,
        **options: Unpack[CorpusOptions],
    ) -> "CorpusSettings":
        """Settings with absolute paths, so that they mean the same wherever a worker starts.

        Raises:
            InputError, InputTypeError: an unknown option, or one that no file could be embedded with.
        """
        if unknown := sorted(set(options) - set(CorpusOptions.__annotations__)):
            raise InputTypeError(
                f"embed_files() has no arguments {unknown}; expected some of "
                f"{sorted(CorpusOptions.__annotations__)}."
            )
        if options.get("on_error", "stop") not in ("stop", "null"):
            raise InputError(f"on_error is {options.get('on_error')!r}; expected 'stop' or 'null'.")
        if options.get("vector_precision") in ("int8", "uint8") and options.get("ranges") is None:
            raise InputError(
                f"Vectors in {options.get('vector_precision')} mean nothing without their ranges: pass "
                "ranges too (numpy.load of what embed-text --write-ranges wrote)."
            )
        bundle, source, output = (str(Path(path).absolute()) for path in (bundle, source, output))
        return cls(bundle, source, output, threads, options)

    @property
    def fields(self) -> Fields:
        """The columns that are read."""
        options = self.options
        return Fields(
            options.get("text_field", DEFAULT_TEXT_FIELD), options.get("title_field"), options.get("id_field")
        )

    def open_bundle(self) -> Embedder:
        """The bundle, opened.

        Raises:
            BundleError, EngineError, InputError: as `Embedder`.
        """
        options = self.options
        return Embedder(
            self.bundle,
            format=options.get("format"),
            precision=options.get("precision"),
            threads=self.threads,
            truncate_dim=options.get("dim"),
            overflow=options.get("overflow", "truncate"),
        )

    def plan(self, embedder: Embedder) -> Plan:
        """How the rows of each file are embedded.

        Raises:
            InputError, InputTypeError: as `make_plan` and `Options.of`.
        """
        options = self.options
        asked = {"precision": options.get("vector_precision", "float32"), "task": options.get("task")}
        titles = self.fields.title is not None
        used = options.get("ranges") if asked["precision"] in ("int8", "uint8") else None
        return make_plan(
            embedder,
            Options.of(Options.batch_size, False, asked),
            options.get("on_error", "stop"),
            options.get("prompt"),
            titles,
            used,
        )
