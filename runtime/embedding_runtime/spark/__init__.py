"""Embeds a folder of Parquet files with Spark. Needs pyspark only when it is called."""

import pickle
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import GenericAlias
from typing import Any, Unpack

from embedding_runtime.corpus.file_embedder import kept_embedder
from embedding_runtime.corpus.folders import begin
from embedding_runtime.corpus.report import CorpusReport
from embedding_runtime.corpus.settings import CorpusOptions, CorpusSettings
from embedding_runtime.encoding.options import check_whole
from embedding_runtime.errors import EngineError

_REPORT = (
    "name string, status string, texts long, tokens long, seconds double, without_vector long, cut long, "
    "error string"
)


def embed_files(
    session: Any,
    bundle: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    threads: int = 1,
    **options: Unpack[CorpusOptions],
) -> CorpusReport:
    """Embed every Parquet file of a folder into a stamped Parquet file of the same name in another.

    A pandas UDF maps over the names of files, one in each task; a Python worker opens the bundle once for all
    its tasks. A file under its name is complete; the same call again embeds only those that are missing. What
    Spark starts again after a worker was killed gives the same files.

    Args:
        session: a `SparkSession`.
        bundle, source, output: folders that every machine of the cluster has under the same path.
        threads: of each task; set `spark.task.cpus` to it where it is not 1.
        options: as of `embed-text`; see `CorpusOptions`.

    Raises:
        EngineError: pyspark, or the pandas and pyarrow that it needs, are not installed.
        InputError: a bad argument; or, when all others are done, files that could not be embedded.
        BundleError: as `Embedder`.
    """
    functions, pandas = _import_spark()
    check_whole("threads", threads)
    settings = CorpusSettings.of(bundle, source, output, threads, **options)
    names, pickled = begin(settings), pickle.dumps(settings)

    def embed(batches: Iterator[Any]) -> Iterator[Any]:
        files = kept_embedder(pickled)
        for numbers in batches:
            yield pandas.DataFrame([vars(files.embed(names[number])) for number in numbers])

    # Spark reads the kind of a pandas UDF off its annotations, which only pandas can give.
    taken, given = (GenericAlias(Iterator, (kind,)) for kind in (pandas.Series, pandas.DataFrame))
    embed.__annotations__ = {"batches": taken, "return": given}
    embedded = functions.pandas_udf(embed, _REPORT)
    one_in_each_task = session.range(0, len(names), 1, len(names))
    rows = one_in_each_task.select(embedded("id").alias("report")).select("report.*").collect()
    return CorpusReport.of(row.asDict() for row in rows)


def _import_spark() -> tuple[Any, Any]:
    try:
        return import_module("pyspark.sql.functions"), import_module("pandas")
    except ImportError as e:
        raise EngineError(
            f"pyspark cannot be used ({e}). Install it with: pip install 'embedding-edge[spark]'; it also "
            "needs Java 17 or newer."
        ) from e
