"""Ray and Spark, on local clusters of several workers: the vectors of one machine, whoever is killed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import Call, run_and_kill_a_worker, vectors_in, write_corpus, write_texts

import embedding_runtime.ray
import embedding_runtime.spark
from embedding_runtime import Embedder, EngineError, check_space
from embedding_runtime.embed_text.files.parquet_writer import import_pyarrow

FILES, ROWS = 5, 400


def _missing(kind: str) -> str | None:
    """Why there is no such cluster here."""
    library = {"ray": "ray", "spark": "pyspark"}[kind]
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed (pip install 'embedding-edge[{kind}]')"
    if kind == "spark" and shutil.which("java") is None:
        return "Spark needs Java, and there is no java on PATH"
    return None


@pytest.fixture(params=["ray", "spark"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if reason := _missing(name):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    write_corpus(folder, FILES, ROWS)
    return folder


@pytest.fixture(scope="module")
def alone(served_bundle: Path, corpus: Path) -> dict[str, tuple[list[str], Any]]:
    """Ids and vectors of each file, in this process."""
    _, parquet = import_pyarrow("A corpus needs")
    found = {}
    with Embedder(served_bundle, precision="int8", threads=1) as embedder:
        for path in corpus.rglob("part-*.parquet"):
            if "_temporary" not in path.parts:
                table = parquet.read_table(path, partitioning=None).to_pydict()
                name = path.relative_to(corpus).as_posix()
                found[name] = (table["id"], embedder.encode_document(table["text"]))
    return found


def same(folder: Path, expected: dict[str, tuple[list[str], Any]]) -> None:
    """Bit for bit; and nothing else lies in the folder."""
    found = vectors_in(folder)
    assert found.keys() == expected.keys()
    for name, (ids, vectors) in found.items():
        assert ids == expected[name][0]
        np.testing.assert_array_equal(vectors, expected[name][1])
    assert sorted(p.name for p in folder.iterdir()) == sorted({Path(n).parts[0] for n in expected})


def test_a_killed_worker_changes_nothing(
    kind: str, served_bundle: Path, corpus: Path, alone: Any, tmp_path: Path
) -> None:
    """What is finished is not embedded again, and what cannot be embedded is said: all on one cluster."""
    out, missing = tmp_path / "vectors", "part-002.parquet"
    write_texts(tmp_path / "texts" / "good.parquet", ["red"])
    write_texts(tmp_path / "texts" / "bad.parquet", ["red", None])
    options = {"task": "document", "id_field": "id"}
    first, again, refused = run_and_kill_a_worker(
        kind,
        served_bundle,
        [
            Call(str(corpus), str(out), options),
            Call(str(corpus), str(out), options, str(out / missing)),
            Call(str(tmp_path / "texts"), str(tmp_path / "others"), {}),
        ],
    )
    same(out, alone)
    for path in out.rglob("*.parquet"):
        assert check_space(path, served_bundle).side == "document"
    assert {f["name"]: f["status"] for f in first}.keys() == alone.keys()
    assert {f["name"] for f in again if f["status"] == "written"} == {missing}
    assert {f["name"] for f in again if f["status"] == "kept"} == alone.keys() - {missing}
    assert "1 of 2 files have no vectors" in refused and "bad.parquet: line 2 has no text" in refused
    assert list(vectors_in(tmp_path / "others")) == ["good.parquet"]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    for module in (embedding_runtime.ray, embedding_runtime.spark):
        monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(EngineError, match=r"pip install 'embedding-edge\[ray\]'"):
        embedding_runtime.ray.embed_files(tmp_path, tmp_path, tmp_path, workers=1)
    with pytest.raises(EngineError, match=r"pip install 'embedding-edge\[spark\]'.*Java 17"):
        embedding_runtime.spark.embed_files(None, tmp_path, tmp_path, tmp_path)


def test_clusters_are_imported_when_they_are_called() -> None:
    code = "import sys, embedding_runtime.ray, embedding_runtime.spark; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert {"ray", "pyspark", "pandas", "pyarrow", "onnxruntime"}.isdisjoint(loaded.split())


def test_the_cost_of_a_corpus(served_bundle: Path, tmp_path: Path) -> None:
    """The page's command, as it stands."""
    page = (Path(__file__).parents[3] / "runtime" / "CLUSTERS.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.S)
    (tmp_path / "my-bundle").symlink_to(served_bundle)
    write_texts(tmp_path / "sample.parquet", ["the red planet", "a deep ocean"] * 50)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"([\d,]+) tokens/s per core, ([\d,]+) core-hours, ([\d,]+)\n", done.stdout)
    assert found, done.stdout
    rate, hours, cost = (int(number.replace(",", "")) for number in found.groups())
    sample = json.loads((tmp_path / "sample.json").read_text())
    assert hours == pytest.approx(1e6 * sample["tokens"] / rate / 3600, rel=0.02, abs=1)
    assert cost == pytest.approx(0.04 * hours, abs=1)
