"""Embeds a folder of Parquet files on a Ray cluster. Needs Ray only when it is called."""

from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from embedding_runtime.corpus.file_embedder import FileEmbedder
from embedding_runtime.corpus.folders import begin
from embedding_runtime.corpus.report import CorpusReport
from embedding_runtime.corpus.settings import CorpusOptions, CorpusSettings
from embedding_runtime.encoding.options import check_whole
from embedding_runtime.errors import EngineError


def embed_files(
    bundle: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    workers: int,
    threads: int = 1,
    **options: Unpack[CorpusOptions],
) -> CorpusReport:
    """Embed every Parquet file of a folder into a stamped Parquet file of the same name in another.

    Ray Data maps over the names of files, with an actor for each worker that opens the bundle once. A file
    under its name is complete; the same call again embeds only those that are missing. What Ray starts again
    after a worker was killed gives the same files.

    Args:
        bundle, source, output: folders that every machine of the cluster has under the same path.
        workers: actors, at most as many as there are files.
        threads: of each worker, and the CPUs that Ray reserves for it.
        options: as of `embed-text`; see `CorpusOptions`.

    Raises:
        EngineError: Ray is not installed.
        InputError: a bad argument; or, when all others are done, files that could not be embedded.
        BundleError: as `Embedder`.
    """
    try:
        data: Any = import_module("ray.data")
    except ImportError as e:
        raise EngineError(
            f"ray.data cannot be imported ({e}). Install it with: pip install 'embedding-edge[ray]'"
        ) from e
    check_whole("workers", workers)
    check_whole("threads", threads)
    settings = CorpusSettings.of(bundle, source, output, threads, **options)
    names = begin(settings)
    files = data.from_items([{"name": name} for name in names], override_num_blocks=len(names))
    reports = files.map_batches(
        _Worker,
        fn_constructor_args=(settings,),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=min(workers, len(names)), max_tasks_in_flight_per_actor=1),
        num_cpus=threads,
    )
    return CorpusReport.of(reports.take_all())


class _Worker:
    """What an actor does."""

    def __init__(self, settings: CorpusSettings) -> None:
        self._files = FileEmbedder(settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        reports = [vars(self._files.embed(str(name))) for name in batch["name"]]
        return {key: [report[key] for report in reports] for key in reports[0]}
