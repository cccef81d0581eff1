"""Puts vendors' packages beside a bundle's LiteRT files, and says which checkpoints can have them.

A package is a file that a vendor's own client opens, with the tokenizer inside: `.task` for MediaPipe,
`.litertlm` for LiteRT-LM. What their clients do with texts is told in the runtime's LITERT.md.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from embedding_export.bundle.golden import SpecialIds
from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.errors import ExportError
from embedding_export.options import ExportOptions, Package
from embedding_export.packages.litertlm import Tokenizer, write_litertlm
from embedding_export.packages.task import write_task
from embedding_export.reporting import Reporter
from embedding_export.tokenizer.trimming import SENTENCEPIECE
from embedding_runtime.bundle import Graph

KINDS: tuple[Package, ...] = ("task", "litertlm")


def package(graph: Path, kind: Package) -> Path:
    """Where a package of a LiteRT file lies."""
    return graph.with_suffix(f".{kind}")


def check_packages(options: ExportOptions) -> None:
    """Check what can be checked without a checkpoint.

    Raises:
        ExportError: packages without LiteRT files, or what writes them is not installed.
    """
    if options.packages and "litert" not in options.formats:
        raise ExportError(f"{' and '.join(options.packages)} are made of LiteRT files. Add --format litert.")
    if "litertlm" in options.packages and importlib.util.find_spec("litert_lm_builder") is None:
        raise ExportError(
            "litert-lm-builder is not installed. Install it with: pip install 'embedding-edge[packages]'"
        )


def require_packages(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Check that the clients read texts as the checkpoint does.

    Raises:
        ExportError: they do not, or there is no tokenizer that they take.
    """
    if options.packages and checkpoint.do_lower_case:
        raise ExportError(
            f"{checkpoint.path} reads texts in lower case (do_lower_case), which neither MediaPipe nor "
            f"LiteRT-LM does: they would give other vectors. Leave out --format {','.join(options.packages)}."
        )
    if "task" in options.packages and _sentencepiece(checkpoint, options.alphabet) is None:
        reason = (
            "has no tokenizer.model" if options.alphabet is None else "is trimmed, and tokenizer.model is not"
        )
        raise ExportError(
            f"MediaPipe takes a SentencePiece model alone, and {checkpoint.path} {reason}. Leave out "
            "--format task; litertlm takes tokenizer.json too."
        )


def write_packages(
    checkpoint: Checkpoint,
    special: SpecialIds,
    folder: Path,
    graph: Graph,
    options: ExportOptions,
    report: Reporter,
) -> None:
    """Write the requested packages of a LiteRT graph of the bundle in `folder`.

    Raises:
        ExportError: an id that the clients would not leave out of the mean.
    """
    if special.pad_id != 0:
        raise ExportError(
            f"The clients fill a short text up with id 0, and {checkpoint.path} pads with {special.pad_id}. "
            f"Leave out --format {','.join(options.packages)}."
        )
    path, sentencepiece = folder / graph.file, _sentencepiece(checkpoint, options.alphabet)
    for kind in options.packages:
        out = package(path, kind)
        out.unlink(missing_ok=True)  # in a bundle that is added to it may be a hard link
        if kind == "task":
            assert sentencepiece is not None
            lengths: Sequence[int] = (write_task(path, sentencepiece, out),)
        else:
            tokenizer = Tokenizer(special.bos_id, special.eos_id, sentencepiece, checkpoint.tokenizer.text)
            lengths = write_litertlm(path, tokenizer, out)
        report.step(
            f"wrote {out.name}, for up to {lengths[-1]} tokens, of {path.name}; see what its client makes of "
            f"it with: validate-embedding --audit {out.name} --reference {checkpoint.source.name}"
        )


def _sentencepiece(checkpoint: Checkpoint, alphabet: str | None) -> Path | None:
    """The checkpoint's SentencePiece model, if it has one of its vocabulary."""
    found = [file for file in checkpoint.client_files if file.name == SENTENCEPIECE]
    return found[0] if found and alphabet is None else None
