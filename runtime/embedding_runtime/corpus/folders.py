"""Which files of a folder are embedded, and where their vectors go."""

import warnings
from pathlib import Path

from embedding_runtime.corpus.settings import CorpusSettings
from embedding_runtime.embed_text.plan import planned_stamp
from embedding_runtime.errors import EmbeddingWarning, InputError


def begin(settings: CorpusSettings) -> list[str]:
    """Names of the Parquet files, relative to the folder, the largest first; makes the folder for vectors.

    Like Spark and Hive, leaves out files and folders whose names begin with a dot or an underscore.

    Raises:
        InputError: no such files, folders that lie in each other, a link to a folder, a name that is not
            UTF-8, or an option that suits no file.
        BundleError, EngineError: as `Embedder`.
    """
    source, output = Path(settings.source), Path(settings.output)
    if not source.is_dir():
        raise InputError(
            f"{source} is not a folder; expected one with Parquet files. (One file: embed-text.)"
        )
    if source.resolve() == output.resolve() or source.resolve() in output.resolve().parents:
        raise InputError(
            f"The folder for vectors {output} lies in that of the texts {source}, whose next run would read "
            "it. Give another folder."
        )
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; expected a folder for vectors, there or not.")
    found = _parquet_files(source)
    if not found:
        raise InputError(f"{source} has no files *.parquet; expected texts in some.")
    names = [p.relative_to(source).as_posix() for p in sorted(found, key=lambda p: (-_size(p), p))]
    _warn_of_others(output, set(names))
    with settings.open_bundle() as embedder:
        planned_stamp(embedder, settings.plan(embedder))
    output.mkdir(parents=True, exist_ok=True)
    return names


def _parquet_files(source: Path) -> list[Path]:
    """Raises InputError for what would be left out without a word, or cannot be named to a worker."""
    seen = [p for p in source.rglob("*") if _is_seen(p.relative_to(source))]
    if linked := next((p for p in seen if p.is_symlink() and p.is_dir()), None):
        raise InputError(
            f"{linked} is a link to a folder, which is not followed. Replace it by the folder, or remove it."
        )
    found = [p for p in seen if p.suffix.lower() == ".parquet" and (p.is_file() or p.is_symlink())]
    if odd := next((p for p in found if not _is_unicode(p)), None):
        raise InputError(
            f"The name {str(odd)!r} is not UTF-8, so no worker can be given it. Rename the file."
        )
    return found


def _warn_of_others(output: Path, names: set[str]) -> None:
    """Warn of vectors that are not this corpus's: of files renamed or removed since, or of another one."""
    lying = (p.relative_to(output) for p in output.rglob("*") if p.suffix.lower() == ".parquet")
    others = sorted(p.as_posix() for p in lying if _is_seen(p) and p.as_posix() not in names)
    if others:
        warnings.warn(
            f"{output} holds {len(others)} Parquet files, such as {others[0]}, of which the texts have none. "
            "Whoever reads the folder reads them too: remove them if they are of files renamed or removed.",
            EmbeddingWarning,
            stacklevel=3,
        )


def _is_seen(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _size(path: Path) -> int:
    """0 for a link to nothing, which the worker that is given it will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_unicode(path: Path) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in str(path))
