"""Folders of texts and of vectors as they should not be: nothing is lost, doubled or silently replaced."""

import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import WORDS, write_texts

from embedding_runtime import Embedder, EmbeddingWarning, InputError
from embedding_runtime.corpus import file_embedder
from embedding_runtime.corpus.file_embedder import FileEmbedder
from embedding_runtime.corpus.folders import begin
from embedding_runtime.corpus.report import CorpusReport
from embedding_runtime.corpus.settings import CorpusSettings
from embedding_runtime.embed_text.files.text_source import open_source
from embedding_runtime.machine.durable_file import place_durably

parquet: Any = pytest.importorskip("pyarrow.parquet")
PROGRAM = """
import json, sys
from embedding_runtime.corpus.file_embedder import FileEmbedder
from embedding_runtime.corpus.settings import CorpusSettings
given = CorpusSettings.of(*sys.argv[1:4], 1, dim=int(sys.argv[4]))
print(json.dumps(vars(FileEmbedder(given).embed("a.parquet"))))
"""


def settings(bundle: Path, folder: Path, **options: Any) -> CorpusSettings:
    return CorpusSettings.of(bundle, folder / "texts", folder / "vectors", 1, **options)


def embed(bundle: Path, folder: Path, **options: Any) -> CorpusReport:
    """All files of a folder, as a worker embeds them."""
    given = settings(bundle, folder, **options)
    names, files = begin(given), FileEmbedder(given)
    return CorpusReport.of(vars(files.embed(name)) for name in names)


def refused(bundle: Path, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        embed(bundle, folder, **options)
    return str(error.value)


def texts(folder: Path, *names: str, rows: Any = ("red", "blue")) -> None:
    for name in names:
        write_texts(folder / "texts" / name, list(rows))


def test_two_runs_of_different_settings(served_bundle: Path, tmp_path: Path) -> None:
    """Whichever ends first, its file stays, and the other run says that it has none."""
    texts(tmp_path, "a.parquet", rows=[f"{i} {' '.join(WORDS)}" for i in range(2000)])
    folders = [str(tmp_path / "texts"), str(tmp_path / "vectors")]
    runs = {
        dim: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(served_bundle), *folders, str(dim)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for dim in (64, 16)
    }
    reports = {dim: json.loads(process.communicate()[0]) for dim, process in runs.items()}
    assert sorted(r["status"] for r in reports.values()) == ["failed", "written"]
    (dim,) = (dim for dim, report in reports.items() if report["status"] == "written")
    kept = parquet.read_table(tmp_path / "vectors" / "a.parquet")["embedding"]
    assert {len(v) for v in kept.to_pylist()} == {dim}
    assert f"holds vectors of {dim} components" in next(r["error"] for r in reports.values() if r["error"])
    assert [p.name for p in (tmp_path / "vectors").iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError("as exFAT does")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    place_durably(tmp_path / "one", tmp_path / "placed")
    with pytest.raises(FileExistsError):
        place_durably(tmp_path / "two", tmp_path / "placed")
    assert (tmp_path / "placed").read_text() == "one"
    with pytest.raises(FileNotFoundError):
        place_durably(tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_files_that_cannot_be_read_are_bad_files(served_bundle: Path, tmp_path: Path) -> None:
    texts(tmp_path, "a.parquet", "b.parquet")
    (tmp_path / "texts" / "c.parquet").symlink_to("nowhere")
    (tmp_path / "texts" / "d.parquet").symlink_to("d.parquet")
    given = settings(served_bundle, tmp_path)
    names, files = begin(given), FileEmbedder(given)
    assert sorted(names) == ["a.parquet", "b.parquet", "c.parquet", "d.parquet"]
    (tmp_path / "texts" / "b.parquet").unlink()
    found = {name: files.embed(name) for name in names}
    assert found["a.parquet"].status == "written"
    for name in ("b.parquet", "c.parquet", "d.parquet"):
        assert found[name].status == "failed" and "cannot be read" in found[name].error


def test_a_file_that_changes_as_it_is_read(
    served_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts(tmp_path, "a.parquet")

    def and_changed(path: Path) -> Any:
        source = open_source(path)
        os.utime(path, ns=(1, 1))
        return source

    monkeypatch.setattr("embedding_runtime.corpus.file_embedder.open_source", and_changed)
    assert "a.parquet: was changed while it was read" in refused(served_bundle, tmp_path)
    assert list((tmp_path / "vectors").rglob("*")) == []


def test_names_are_all_seen(served_bundle: Path, tmp_path: Path) -> None:
    names = ["A.PARQUET", "a b#%41'\n$.parquet", "é☃.Parquet", "s3:x/y.parquet"]
    texts(tmp_path, *names)
    for status in ("written", "kept"):
        assert {(f.name, f.status) for f in embed(served_bundle, tmp_path).files} == {
            (name, status) for name in names
        }


@pytest.mark.parametrize("kind", ["a linked folder", "bytes"])
def test_names_that_no_worker_can_have(kind: str, served_bundle: Path, tmp_path: Path) -> None:
    texts(tmp_path, "a.parquet")
    if kind == "bytes":
        (tmp_path / "texts" / "a.parquet").rename(tmp_path / "texts" / "\udcff.parquet")
        assert "is not UTF-8" in refused(served_bundle, tmp_path)
    else:
        (tmp_path / "other").mkdir()
        (tmp_path / "texts" / "more").symlink_to(tmp_path / "other")
        assert "more is a link to a folder, which is not followed" in refused(served_bundle, tmp_path)
    assert not (tmp_path / "vectors").exists()


def test_what_lies_where_vectors_belong(served_bundle: Path, tmp_path: Path) -> None:
    """The files that it hinders are named, and the others finished."""
    long, names = "x" * 230 + ".parquet", ["a.parquet", "b/c.parquet", "d.parquet", "e/f.parquet"]
    texts(tmp_path, *names, long)
    vectors = tmp_path / "vectors"
    (vectors / "e").mkdir(parents=True)
    (vectors / "b").write_text("a file")
    (vectors / "e" / ".attempts").write_text("a file")
    (vectors / "d.parquet").mkdir()
    said = refused(served_bundle, tmp_path)
    assert "4 of 5 files have no vectors" in said
    for name in ("b/c.parquet", "d.parquet", "e/f.parquet"):
        assert f"{name}: " in said
    assert sorted(p.name for p in vectors.iterdir() if p.is_file()) == ["a.parquet", "b"]
    assert (vectors / "b").read_text() == "a file"
    assert "File name too long" in FileEmbedder(settings(served_bundle, tmp_path)).embed(long).error


def test_a_damaged_file_of_vectors_is_a_bad_file(served_bundle: Path, tmp_path: Path) -> None:
    texts(tmp_path, "a.parquet", "b.parquet")
    embed(served_bundle, tmp_path)
    path = tmp_path / "vectors" / "a.parquet"
    raw = bytearray(path.read_bytes())
    start = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    raw[start : start + 16] = b"\xff" * 16
    path.write_bytes(raw)
    assert "1 of 2 files have no vectors" in (said := refused(served_bundle, tmp_path))
    assert "a.parquet is not a readable Parquet file" in said


def test_vectors_of_files_that_are_no_more(served_bundle: Path, tmp_path: Path) -> None:
    """Whoever reads the folder would find the rows of a renamed file twice."""
    texts(tmp_path, "a.parquet", "b.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(served_bundle, tmp_path)
        embed(served_bundle, tmp_path)
    (tmp_path / "texts" / "a.parquet").rename(tmp_path / "texts" / "c.parquet")
    with pytest.warns(EmbeddingWarning, match="holds 1 Parquet files, such as a.parquet"):
        report = embed(served_bundle, tmp_path)
    assert [(f.name, f.status) for f in report.files] == [("b.parquet", "kept"), ("c.parquet", "written")]


def test_no_row_of_any_file_has_a_vector(served_bundle: Path, tmp_path: Path) -> None:
    """A file without rows, which comes first, does not hide it."""
    texts(tmp_path, "a.parquet", rows=())
    texts(tmp_path, "b.parquet", rows=[None, None])
    said = refused(served_bundle, tmp_path, on_error="null")
    assert "None of the rows has a vector; the column 'error' of b.parquet says why" in said


def test_files_without_rows_are_files(served_bundle: Path, tmp_path: Path) -> None:
    texts(tmp_path, "a.parquet", rows=())
    assert [(f.status, f.texts) for f in embed(served_bundle, tmp_path).files] == [("written", 0)]
    assert parquet.read_table(tmp_path / "vectors" / "a.parquet").num_rows == 0


@pytest.mark.parametrize("name", ["embedding", "error"])
def test_an_id_that_would_be_lost(name: str, served_bundle: Path, tmp_path: Path) -> None:
    texts(tmp_path, "a.parquet")
    with pytest.raises(InputError, match=f"{name}' cannot be the id"):
        begin(settings(served_bundle, tmp_path, id_field=name))


def test_attempts_beside_each_other(tmp_path: Path) -> None:
    """One that ends removes the folder of attempts; another that begins just then makes it again."""
    faults: list[BaseException] = []

    def begin_and_end(worker: int) -> None:
        try:
            for n in range(1500):
                attempt = tmp_path / ".attempts" / f"{worker}.{n}"
                file_embedder._make_folder(attempt)
                file_embedder._remove(attempt)
        except BaseException as e:
            faults.append(e)

    workers = [threading.Thread(target=begin_and_end, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert faults == []


def test_odd_rows_have_the_vectors_of_the_embedder(served_bundle: Path, tmp_path: Path) -> None:
    rows = ["word " * 30_000, " " * 50_000, "", "\0", "a\0b", "\u2028x", "x" * 60_000, *map(str, range(500))]
    texts(tmp_path, "a.parquet", rows=rows)
    embed(served_bundle, tmp_path, task="document", precision="int8")
    found = parquet.read_table(tmp_path / "vectors" / "a.parquet")
    assert found["index"].to_pylist() == list(range(len(rows)))
    with Embedder(served_bundle, precision="int8", threads=1) as embedder:
        wanted = embedder.encode_document(rows)
    np.testing.assert_array_equal(np.array(found["embedding"].to_pylist(), np.float32), wanted)
