"""Folders of Parquet files for tests of clusters; as a program, calls of `embed_files` on a local cluster.

python tests/support/corpora.py {ray|spark} BUNDLE CALLS, the last as a JSON list of the fields of `Call`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import embedding_runtime.ray
import embedding_runtime.spark
from embedding_runtime import InputError
from embedding_runtime.corpus.file_embedder import ATTEMPTS
from embedding_runtime.embed_text.files.parquet_writer import import_pyarrow

WORDS = ["the", "red", "planet", "mars", "ocean", "deep", "search", "small", "text", "river", "stone"]
# Two workers, whatever the machine has.
WORKERS = 2
# Before what the program prints, among what the clusters print.
_MARK = "result: "


def write_texts(path: Path, texts: list[Any], **columns: list[Any]) -> None:
    """A Parquet file with a column of texts, and others."""
    arrow, parquet = import_pyarrow("A corpus needs")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.table({"text": texts, **columns}), path)


def write_corpus(folder: Path, files: int, rows: int) -> None:
    """Files of mixed lengths, one of them in a folder of its own, beside what Spark leaves lying about."""
    source = random.Random(0)
    for number in range(files):
        name = f"part-{number:03}.parquet" if number else "lang=en/part-000.snappy.parquet"
        lengths = [source.choice((3, 8, 20, 90)) for _ in range(rows)]
        texts = [f"{i} {' '.join(source.choices(WORDS, k=n))}" for i, n in enumerate(lengths)]
        write_texts(folder / name, texts, id=[f"{number}-{i}" for i in range(rows)])
    (folder / "_SUCCESS").touch()
    write_texts(folder / "_temporary" / "part-000.parquet", ["of a run that did not end"])


def vectors_in(folder: Path) -> dict[str, tuple[list[Any], Any]]:
    """Keys and vectors (N, dim) of every file of vectors, by its name."""
    _, parquet = import_pyarrow("A corpus needs")
    found = {}
    for path in sorted(folder.rglob("*.parquet")):
        table = parquet.read_table(path, partitioning=None).to_pydict()
        key = next(iter(table))
        found[path.relative_to(folder).as_posix()] = (table[key], np.array(table["embedding"], np.float32))
    return found


@dataclass(frozen=True)
class Call:
    """One call of `embed_files`; `remove` is a file that is removed before it."""

    source: str
    output: str
    options: dict[str, Any]
    remove: str | None = None


def run_and_kill_a_worker(kind: str, bundle: Path, calls: list[Call]) -> list[Any]:
    """What each call gave, in one process, of which the first worker that is seen at a file is killed."""
    spelled = json.dumps([asdict(call) for call in calls])
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, __file__, kind, str(bundle), spelled], stdout=said, stderr=subprocess.STDOUT
        )
        try:
            _kill_one_at_work(Path(calls[0].output), process)
            assert process.wait(300) == 0, f"{said.seek(0)}{said.read()}"
        finally:
            process.kill()
        said.seek(0)
        return [json.loads(line.removeprefix(_MARK)) for line in said if line.startswith(_MARK)]


def _kill_one_at_work(output: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while not (begun := list(output.rglob(f"{ATTEMPTS}/*"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    name, pid = begun[0].name.rsplit(".", 2)[:2]
    os.kill(int(pid), signal.SIGKILL)
    assert begun[0].exists() and not (begun[0].parents[1] / name).exists(), "it was killed half way"


def _on_ray(bundle: str) -> Callable[[Call], Any]:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    return lambda c: embedding_runtime.ray.embed_files(
        bundle, c.source, c.output, workers=WORKERS, **c.options
    )


def _on_spark(bundle: str) -> Callable[[Call], Any]:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    # Executors of their own processes, as in a cluster: tasks are tried again, which local[N] does not do.
    session = (
        SparkSession.builder.master(f"local-cluster[{WORKERS},1,512]")
        .config("spark.executor.memory", "512m")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    return lambda c: embedding_runtime.spark.embed_files(session, bundle, c.source, c.output, **c.options)


def main(kind: str, bundle: str, calls: str) -> None:
    """Make all calls on one cluster; print what each gave, or what it refused."""
    call = {"ray": _on_ray, "spark": _on_spark}[kind](bundle)
    for given in json.loads(calls):
        if given["remove"]:
            Path(given["remove"]).unlink()
        result: Any
        try:
            result = [asdict(file) for file in call(Call(**given)).files]
        except InputError as e:
            result = str(e)
        print(_MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
