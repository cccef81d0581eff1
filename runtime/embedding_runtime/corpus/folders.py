"""Which files of a folder are embedded, and where their vectors go."""

from pathlib import Path

from embedding_runtime.corpus.settings import CorpusSettings
from embedding_runtime.embed_text.plan import planned_stamp
from embedding_runtime.errors import InputError


def begin(settings: CorpusSettings) -> list[str]:
    """Names of the Parquet files, relative to the folder, the largest first; makes the folder for vectors.

    Like Spark and Hive, leaves out files and folders whose names begin with a dot or an underscore.

    Raises:
        InputError: no such files, folders that lie in each other, or an option that suits no file.
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
    found = [p for p in source.rglob("*.parquet") if p.is_file() and _is_seen(p.relative_to(source))]
    if not found:
        raise InputError(f"{source} has no files *.parquet; expected texts in some.")
    with settings.open_bundle() as embedder:
        planned_stamp(embedder, settings.plan(embedder))
    output.mkdir(parents=True, exist_ok=True)
    by_size = sorted(found, key=lambda p: (-p.stat().st_size, p))
    return [p.relative_to(source).as_posix() for p in by_size]


def _is_seen(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)
