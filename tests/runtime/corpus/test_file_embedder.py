"""One Parquet file of texts, one of vectors: the file of `embed-text`, complete or not there at all."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from corpora import WORDS, vectors_in, write_corpus, write_texts

from embedding_runtime import EngineError, InputError, InputTypeError, read_stamp
from embedding_runtime.corpus.file_embedder import SOURCE_KEY, FileEmbedder
from embedding_runtime.corpus.folders import begin
from embedding_runtime.corpus.report import CorpusReport
from embedding_runtime.corpus.settings import CorpusSettings
from embedding_runtime.embed_text.cli import main

parquet: Any = pytest.importorskip("pyarrow.parquet")
TEXTS = ["the red planet", "a deep ocean", "", "naïve café 日本", "river " * 300]
PROGRAM = """
import json, sys
from embedding_runtime.corpus.file_embedder import FileEmbedder
from embedding_runtime.corpus.settings import CorpusSettings
print(json.dumps(vars(FileEmbedder(CorpusSettings.of(*sys.argv[1:4], 1)).embed("a.parquet"))))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_texts(tmp_path / "texts" / "a.parquet", TEXTS, id=list("abcde"), title=["Mars", None, "", "é", "x"])
    return tmp_path / "texts"


def settings(bundle: Path, source: Path, **options: Any) -> CorpusSettings:
    return CorpusSettings.of(bundle, source, source.parent / "vectors", 1, **options)


def embed(bundle: Path, source: Path, **options: Any) -> CorpusReport:
    """All files of a folder, as a worker embeds them."""
    given = settings(bundle, source, **options)
    names, files = begin(given), FileEmbedder(given)
    return CorpusReport.of(vars(files.embed(name)) for name in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"id_field": "id", "task": "document", "dim": 32}, ["--id-field=id", "--task=document", "--dim=32"]),
        ({"title_field": "title", "precision": "fp32"}, ["--title-field=title", "--precision=fp32"]),
        ({"vector_precision": "ubinary", "prompt": "x: "}, ["--vector-precision=ubinary", "--prompt=x: "]),
        ({"overflow": "chunk"}, ["--overflow=chunk"]),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else "",
)
def test_the_file_is_that_of_the_command(
    served_bundle: Path, source: Path, options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    """Rows, schema and stamp; it says besides what it was made of."""
    report = embed(served_bundle, source, **options)
    found = tmp_path / "vectors" / "a.parquet"
    common = ["--threads", "1", "--output", str(tmp_path / "alone.parquet")]
    assert main([str(served_bundle), str(source / "a.parquet"), *words, *common]) == 0
    alone = tmp_path / "alone.parquet"
    assert parquet.read_table(found).equals(parquet.read_table(alone))
    assert read_stamp(found) == read_stamp(alone)
    metadata = [parquet.read_schema(path).metadata for path in (found, alone)]
    assert set(metadata[0]) - set(metadata[1]) == {SOURCE_KEY.encode()}
    assert [(f.status, f.texts, f.without_vector) for f in report.files] == [("written", 5, 0)]
    assert report.tokens > 300 and report.tokens_per_second > 0
    assert sorted(p.name for p in found.parent.iterdir()) == ["a.parquet"]


def test_a_folder_keeps_its_form(served_bundle: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "texts", files=3, rows=5)
    report = embed(served_bundle, tmp_path / "texts")
    names = ["lang=en/part-000.snappy.parquet", "part-001.parquet", "part-002.parquet"]
    assert [f.name for f in report.files] == names == list(vectors_in(tmp_path / "vectors"))
    (tmp_path / "vectors" / names[1]).unlink()
    again = embed(served_bundle, tmp_path / "texts")
    assert [f.status for f in again.files] == ["kept", "written", "kept"]
    assert [f.texts for f in again.files] == [5, 5, 5]


def test_a_finished_file_is_left_alone(served_bundle: Path, source: Path, tmp_path: Path) -> None:
    embed(served_bundle, source)
    found = tmp_path / "vectors" / "a.parquet"
    before = (found.stat().st_ino, found.stat().st_mtime_ns)
    assert [f.status for f in embed(served_bundle, source).files] == ["kept"]
    assert (found.stat().st_ino, found.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ("texts", {}, "The texts have changed since"),
        ("", {"dim": 32}, "Ask for 64 components"),
        ("", {"task": "query"}, "with the prompt"),
        ("", {"id_field": "id"}, "was made with fields"),
        ("", {"precision": "fp32"}, "was made with graph onnx/int8"),
        ("", {"overflow": "chunk"}, "was made with overflow truncate, and this run has chunk"),
        ("a file of embed-text", {}, "does not say which texts it was made of"),
        ("another file", {}, "is not a readable Parquet file"),
    ],
)
def test_another_file_is_neither_kept_nor_replaced(
    served_bundle: Path, source: Path, change: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    embed(served_bundle, source)
    found = tmp_path / "vectors" / "a.parquet"
    if change == "texts":
        write_texts(source / "a.parquet", ["the red planes", *TEXTS[1:]])
    elif change == "a file of embed-text":
        command = [str(served_bundle), str(source / "a.parquet"), "--output", str(found)]
        assert main([*command, "--threads", "1"]) == 0
    elif change:
        found.write_bytes(b"PAR1, or is it?")
    before = found.read_bytes()
    with pytest.raises(InputError, match="1 of 1 files have no vectors") as refused:
        embed(served_bundle, source, **options)
    assert said in str(refused.value)
    assert found.read_bytes() == before


def test_a_bad_file_does_not_stop_the_others(served_bundle: Path, source: Path, tmp_path: Path) -> None:
    write_texts(source / "b.parquet", ["good", None], id=["b0", "b1"])
    (source / "c.parquet").write_text("no Parquet at all\n")
    (source / "d.parquet").write_bytes((source / "a.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match="3 of 4 files have no vectors") as refused:
        embed(served_bundle, source)
    said = str(refused.value).splitlines()
    assert said[1] == ("b.parquet: line 2 has no text: the field 'text' is None (on_error='null' continues.)")
    assert said[2].startswith("c.parquet: is not a Parquet file")
    assert said[3].startswith("d.parquet: d.parquet is a damaged Parquet file")
    assert [p.name for p in (tmp_path / "vectors").iterdir()] == ["a.parquet"]
    for name in ("c", "d"):
        (source / f"{name}.parquet").unlink()
    (tmp_path / "vectors" / "a.parquet").unlink()
    report = embed(served_bundle, source, on_error="null")
    assert [(f.name, f.without_vector) for f in report.files] == [("a.parquet", 0), ("b.parquet", 1)]
    rows = parquet.read_table(tmp_path / "vectors" / "b.parquet").to_pylist()
    assert rows[1]["embedding"] is None and "has no text" in rows[1]["error"]


def test_a_column_that_holds_no_text_at_all(served_bundle: Path, source: Path) -> None:
    write_texts(source / "a.parquet", [1, 2, 3])
    with pytest.raises(InputError, match="None of the rows"):
        embed(served_bundle, source, on_error="null")


def test_a_killed_attempt_leaves_no_file_and_the_next_removes_its_rest(
    served_bundle: Path, source: Path, tmp_path: Path
) -> None:
    texts = [f"{i} {' '.join(WORDS)}" for i in range(4000)]
    write_texts(source / "a.parquet", texts)
    embed(served_bundle, source)
    whole = (tmp_path / "vectors" / "a.parquet").read_bytes()
    output = tmp_path / "killed"
    command = [sys.executable, "-c", PROGRAM, str(served_bundle), str(source), str(output)]
    process = subprocess.Popen(command)
    while not list(output.rglob(".a.parquet.rows")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = (output / ".attempts").iterdir()
    assert left.name.startswith(f"a.parquet.{process.pid}.")
    assert not (output / "a.parquet").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "written"
    assert [p.name for p in output.iterdir()] == ["a.parquet"]
    assert (output / "a.parquet").read_bytes() == whole


def test_two_attempts_at_one_file(served_bundle: Path, source: Path, tmp_path: Path) -> None:
    """As where Spark speculates: the later one finds the file, or writes the same."""
    write_texts(source / "a.parquet", [f"{i} {' '.join(WORDS)}" for i in range(2000)])
    output = tmp_path / "both"
    command = [sys.executable, "-c", PROGRAM, str(served_bundle), str(source), str(output)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate()[0]) for process in both]
    assert {r["status"] for r in reports} <= {"written", "kept"}
    assert {r["texts"] for r in reports} == {2000}
    embed(served_bundle, source)
    assert (output / "a.parquet").read_bytes() == (tmp_path / "vectors" / "a.parquet").read_bytes()
    assert [p.name for p in output.iterdir()] == ["a.parquet"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's limits")
def test_a_full_disk_leaves_no_file(served_bundle: Path, source: Path, tmp_path: Path) -> None:
    write_texts(source / "a.parquet", [f"{i} {' '.join(WORDS)}" for i in range(3000)])
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n" + PROGRAM
    command = [sys.executable, "-c", limited, str(served_bundle), str(source), str(tmp_path / "full")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr
    left = [p for p in (tmp_path / "full").rglob("*") if p.is_file()]
    assert left == []


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"on_error": "skip"}, InputError, "expected 'stop' or 'null'"),
        ({"vector_precision": "int8"}, InputError, "pass ranges too"),
        ({"text_column": "x"}, InputTypeError, "no arguments ['text_column']"),
        ({"task": "nothing"}, InputError, "nothing"),
        ({"dim": 65}, InputError, "65"),
        ({"precision": "int3"}, EngineError, "int3"),
    ],
)
def test_what_suits_no_file_is_refused_before_any(
    served_bundle: Path, source: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises((error, InputError)) as refused:
        begin(settings(served_bundle, source, **options))
    assert said in str(refused.value)
    assert not (source.parent / "vectors").exists()


def test_folders_that_cannot_be(
    served_bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    for texts, vectors, said in (
        (tmp_path / "none", tmp_path / "v", "is not a folder"),
        (source / "a.parquet", tmp_path / "v", "is not a folder"),
        (tmp_path / "empty", tmp_path / "v", "has no files"),
        (source, source / "a.parquet", "lies in that"),
        (source, tmp_path / "a file", "is a file"),
        (source, source, "lies in that of the texts"),
        (source, source / "vectors", "lies in that of the texts"),
    ):
        with pytest.raises(InputError, match=said):
            begin(CorpusSettings.of(served_bundle, texts, vectors, 1))
    monkeypatch.chdir(tmp_path)
    assert CorpusSettings.of("b", "texts", "v", 1).source == str(tmp_path / "texts")
