"""Files as Excel, pandas, jq and data sets write them: a text for every row, or an error that says why."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from text_command import COMMAND, close, records

from embedding_runtime import Embedder, InputError
from embedding_runtime.embed_text.cli import main
from embedding_runtime.embed_text.files.row_formats import choose_format
from embedding_runtime.embed_text.files.rows import Fields, Row, read_rows
from embedding_runtime.embed_text.files.text_source import open_source
from embedding_validate.compare.corpus import corpus
from embedding_validate.probes import texts

Captured = pytest.CaptureFixture[str]

ROWS: list[dict[str, Any]] = [{"id": 1, "text": "Mars is red"}, {"id": 2, "text": "Bread, baked"}]
TEXTS: list[str] = [row["text"] for row in ROWS]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = 'id,text\n1,Mars is red\n2,"Bread, baked"\n'
TSV = "id\ttext\n1\tMars is red\n2\tBread, baked\n"


def read(path: Path, fields: Fields | None = None, delimiter: str | None = None) -> list[Row]:
    asked = fields or Fields()
    source = open_source(path)
    return list(read_rows(source, choose_format(source, path, None, asked.names), asked, delimiter))


def parquet(columns: list[tuple[str, Any]]) -> bytes:
    arrow: Any = pytest.importorskip("pyarrow")
    writer: Any = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    arrays = [arrow.array(values) for _, values in columns]
    writer.write_table(arrow.Table.from_arrays(arrays, names=[name for name, _ in columns]), out)
    return out.getvalue()


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


RIGHT = {
    "lines.json": JSONL.encode(),
    "array.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=1).encode(),
    "strings.json": json.dumps(TEXTS, indent=1).encode(),
    "carriage returns.json": json.dumps(ROWS, indent=1).replace("\n", "\r").encode(),
    "after blank lines.json": b"\n\n  " + json.dumps(ROWS).encode(),
    "objects.txt": JSONL.encode(),
    "array without a suffix": json.dumps(ROWS).encode(),
    "a.jsonl.gz": gzip.compress(JSONL.encode()),
    "a.json.gz": gzip.compress(json.dumps(ROWS, indent=2).encode()),
    "two members.jsonl.gz": b"".join(gzip.compress(line.encode()) for line in JSONL.splitlines(True)),
    "unpacked.jsonl.gz": JSONL.encode(),
    "packed.jsonl": gzip.compress(JSONL.encode()),
    "bom.jsonl": codecs.BOM_UTF8 + JSONL.encode(),
    "utf-16.jsonl": JSONL.encode("utf-16"),
    "carriage returns.jsonl": JSONL.replace("\n", "\r").encode(),
    "carriage returns.csv": TABLE.replace("\n", "\r").encode(),
    "bom and carriage returns.csv": codecs.BOM_UTF8 + TABLE.replace("\n", "\r").encode(),
    "windows.csv": TABLE.replace("\n", "\r\n").encode(),
    "a.csv.gz": gzip.compress(TABLE.encode()),
    "A.CSV.GZ": gzip.compress(TABLE.encode()),
    "utf-16.csv": TABLE.encode("utf-16"),
    "unicode text.csv": codecs.BOM_UTF16_LE + TSV.encode("utf-16-le"),
    "big-endian.csv": codecs.BOM_UTF16_BE + TABLE.encode("utf-16-be"),
    "utf-16 without a mark.csv": TABLE.encode("utf-16-le"),
    "utf-32.csv": TABLE.encode("utf-32"),
    "utf-16.csv.gz": gzip.compress(TABLE.encode("utf-16")),
    "semicolons.csv": b'id;text\n1;Mars is red\n2;"Bread, baked"\n',
    "unquoted semicolons.csv": b"id;text\n1;Mars is red\n2;Bread, baked\n",
    "tabs.csv": TSV.encode(),
    "bars.csv": TSV.replace("\t", "|").encode(),
    "separator.csv": b"sep=;\r\nid;text\r\n1;Mars is red\r\n2;Bread, baked\r\n",
    "blank lines.csv": b'\n\nid,text\n\n1,Mars is red\n\n\n2,"Bread, baked"\n\n',
    "one column.csv": b'text\nMars is red\n"Bread, baked"\n',
    "commas.tsv": TABLE.encode(),
    "tabs.tsv": TSV.encode(),
    "carriage returns.txt": "\r".join(TEXTS).encode() + b"\r",
    "windows.txt": "\r\n".join(TEXTS).encode(),
    "a.txt.gz": gzip.compress("\n".join(TEXTS).encode()),
    "utf-16.txt": "\n".join(TEXTS).encode("utf-16"),
    "utf-16 without a mark.txt": "\n".join(TEXTS).encode("utf-16-be"),
    "no last end.csv": TABLE.rstrip("\n").encode(),
    "equal names of no use.csv": b'id,text,id,\n1,Mars is red,3,\n2,"Bread, baked",4,\n',
}


@pytest.mark.parametrize("name", RIGHT)
def test_read_as_they_are(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(RIGHT[name])
    assert [(r.text, r.error) for r in read(tmp_path / name)] == [(t, None) for t in TEXTS]


def test_parquet_by_content(tmp_path: Path) -> None:
    data = parquet([("id", [1, 2]), ("text", TEXTS), ("other", [None, None])])
    for name in ("a.parquet", "named.csv", "a.txt"):
        (tmp_path / name).write_bytes(data)
        found = read(tmp_path / name, Fields(id="id"))
        assert [(r.line, r.text, r.id) for r in found] == [(1, TEXTS[0], 1), (2, TEXTS[1], 2)]
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(data))
    assert [r.text for r in read(tmp_path / "a.parquet.gz")] == TEXTS


def test_parquet_of_other_types(tmp_path: Path) -> None:
    """A text that is none is a row with an error; ids that JSON has not are spelled out."""
    import datetime

    day = datetime.date(2026, 1, 2)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([("text", ["one", None]), ("id", [day, day])]))
    one, none = read(path, Fields(id="id"))
    assert (one.text, one.id, none.id) == ("one", "2026-01-02", "2026-01-02")
    assert none.error == "has no text: the field 'text' is None"
    path.write_bytes(parquet([("text", [1, 2])]))
    assert [r.error for r in read(path)] == [f"has no text: the field 'text' is {n}" for n in (1, 2)]


REFUSED = {
    "one object.json": (json.dumps(ROWS[0], indent=1).encode(), "--input-format json, jsonl or lines"),
    "jq.txt": (b'{\n  "text": "a"\n}\n', "jq -c"),
    "columns.json": (b"{\n", "--input-format"),
    "number.json": (b"12\n", "--input-format"),
    "broken.json": (b'[{"text": "a"},\n', "begins like a JSON array but is not one"),
    "lists.txt": (b'["a"]\n["b"]\n', "--input-format lines or jsonl"),
    "table.txt": (TABLE.encode(), "looks like a table.*--input-format csv"),
    "table without a suffix": (TSV.encode(), "looks like a table.*--input-format csv"),
    "twice.csv": (b"text,text\na,b\n", "has the field 'text' twice"),
    "id twice.csv": (b"id,text,id\n1,a,2\n", "has the field 'id' twice"),
    "other.csv": (b"id,body\n1,a\n", "not .'text'.*--delimiter"),
    "objects.csv": (JSONL.encode(), "not .'text'"),
    "not.parquet": (TABLE.encode(), "not a Parquet file"),
    "damaged.parquet": (b"PAR1" + bytes(range(256)) + b"PAR1", "damaged Parquet file"),
    "a.xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook.*CSV UTF-8"),
    "workbook.csv": (zipped("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook"),
    "a.docx": (zipped("[Content_Types].xml", "word/document.xml"), "Word document"),
    "a.zip": (zipped("a.txt"), "zip archive"),
    "a.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "old Excel"),
    "a.jsonl.zst": (b"\x28\xb5\x2f\xfd\x04\x00\x01", "zstd -d"),
    "a.csv.bz2": (bz2.compress(TABLE.encode()), "bzip2 -d"),
    "a.csv.xz": (lzma.compress(TABLE.encode()), "xz -d"),
    "twice.gz": (gzip.compress(gzip.compress(b"a")), "gzip twice"),
    "cut.csv.gz": (gzip.compress(TABLE.encode() * 99)[:-12], "damaged or cut off"),
    "broken.csv.gz": (gzip.compress(TABLE.encode())[:12] + b"\xff" * 40, "damaged"),
    "cut.utf16.csv": (TABLE.encode("utf-16")[:-1], "UTF-16-LE and is damaged or cut off"),
    "a.npy": (b"\x93NUMPY\x01\x00v\x00" + bytes(90), "is not text"),
    "a.db": (b"SQLite format 3\x00" + bytes(90), "is not text"),
    "a.pdf": (b"%PDF-1.7\n", "PDF"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_cause(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, Fields(id="id") if name.startswith("id ") else None)


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,one\n2,"two\n3,three\n4,four\n')
    assert [(r.line, r.text, bool(r.error)) for r in read(path)] == [
        (2, "one", False),
        (3, "", True),
        (4, "three", False),
        (5, "four", False),
    ]


def test_quotes_in_tsv_are_quotes_where_they_cannot_be_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"Hello" she said\n2\t"never closed\n3\t"closed"\n4\t"two\nlines"\n5\tend\n')
    assert [r.text for r in read(path)] == [
        '"Hello" she said',
        '"never closed',
        "closed",
        "two\nlines",
        "end",
    ]


def test_line_breaks_in_cells_of_a_macintosh_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\r1,"two\nlines"\r2,plain\r')
    assert [r.text for r in read(path)] == ["two\nlines", "plain"]


def test_a_zero_byte_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a text with a zero\0byte in it\nanother\n")
    assert [r.text for r in read(tmp_path / "a.txt")] == ["a text with a zero\0byte in it", "another"]


def test_what_only_looks_like_json_is_text(tmp_path: Path) -> None:
    lines = ["[1] Author, Title", "{curly} words", '"quoted"', "[link](x)", "a, text, b"]
    for line in lines:
        (tmp_path / "a.txt").write_text(f"{line}\nsecond\n")
        assert [r.text for r in read(tmp_path / "a.txt")] == [line, "second"]


def test_a_first_object_as_long_as_a_book(tmp_path: Path) -> None:
    book = "word " * 60_000
    (tmp_path / "a.json").write_text(json.dumps({"text": book}) + '\n{"text": "b"}\n')
    assert [r.text for r in read(tmp_path / "a.json")] == [book, "b"]


def test_json_with_two_fields_of_one_name_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "text": "b"}\n')
    assert [r.error for r in read(tmp_path / "a.jsonl")] == ["names the field 'text' twice"]


PIPED = {"lines": JSONL.encode(), "array": json.dumps(ROWS).encode(), "packed": gzip.compress(JSONL.encode())}


@pytest.mark.parametrize("data", PIPED.values(), ids=PIPED)
def test_from_a_pipe(data: bytes, tiny_bundle: Path, embedder: Embedder) -> None:
    done = subprocess.run([*COMMAND, str(tiny_bundle), "-"], input=data, capture_output=True, check=True)
    close([r["embedding"] for r in records(done.stdout.decode())], embedder.encode(TEXTS))


def test_parquet_from_a_pipe(tiny_bundle: Path, embedder: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    arguments = [str(tiny_bundle), "-", "-o", str(out)]
    subprocess.run([*COMMAND, *arguments], input=parquet([("text", TEXTS)]), capture_output=True, check=True)
    close(np.load(out), embedder.encode(TEXTS))


@pytest.mark.parametrize("policy", ["skip", "null"])
def test_a_file_of_which_nothing_was_read_is_a_failure(
    policy: str, tiny_bundle: Path, tmp_path: Path, capfd: Captured
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "a"}\n[1]\n')
    assert main([str(tiny_bundle), str(path), "--on-error", policy]) == 2
    assert "2 of 2 rows have no vector" in capfd.readouterr().err
    path.write_text('{"body": "a"}\n{"text": "b"}\n')
    assert main([str(tiny_bundle), str(path), "--on-error", policy]) == 0


@pytest.mark.parametrize(("name", "content"), [("a.txt", ""), ("a.csv", "id,text\n"), ("a.json", "[]")])
def test_no_rows_is_said(name: str, content: str, tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / name).write_text(content)
    assert main([str(tiny_bundle), str(tmp_path / name)]) == 0
    out, err = capfd.readouterr()
    assert out == "" and "the input has no rows" in err


@pytest.mark.parametrize("mark", [("~", "~"), ("tab", "\t"), (r"\t", "\t"), ("|", "|")])
def test_a_delimiter_that_is_asked_for(
    mark: tuple[str, str], tiny_bundle: Path, tmp_path: Path, embedder: Embedder, capfd: Captured
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(TSV.replace("\t", mark[1]))
    assert main([str(tiny_bundle), str(path), "--delimiter", mark[0], "--id-field", "id"]) == 0
    found = records(capfd.readouterr().out)
    close([r["embedding"] for r in found], embedder.encode(TEXTS))
    assert [r["id"] for r in found] == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.csv", ["--delimiter", ";;"], "expected one character"),
        ("a.csv", ["--delimiter", '"'], "expected one character"),
        ("a.txt", ["--delimiter", ";"], "The input is lines, which has no delimiter"),
        ("a.txt", ["--id-field", "id"], "plain lines, which have no fields"),
        ("a.txt", ["--text-field", "body"], "plain lines, which have no fields"),
        ("a.csv", ["--input-format", "parquet"], "not a Parquet file. Leave out --input-format parquet"),
    ],
)
def test_options_that_do_not_fit(
    name: str, options: list[str], message: str, tiny_bundle: Path, tmp_path: Path, capfd: Captured
) -> None:
    (tmp_path / name).write_text("text\nMars\n")
    assert main([str(tiny_bundle), str(tmp_path / name), *options]) == 2
    assert message in capfd.readouterr().err


def test_lines_of_json_where_that_is_asked(tiny_bundle: Path, tmp_path: Path, capfd: Captured) -> None:
    """The advice of the refusals."""
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=1))
    assert main([str(tiny_bundle), str(tmp_path / "a.json"), "--input-format", "lines"]) == 0
    assert len(records(capfd.readouterr().out)) == 4


@pytest.mark.parametrize(
    "name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz", "a.parquet", "semicolons.csv", "a.txt"]
)
def test_one_reader_for_every_command(name: str, tmp_path: Path) -> None:
    documents = ["one", "two, three", "four"]
    lines = "".join(json.dumps({"text": t}) + "\n" for t in documents)
    table = "id,text\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(documents))
    content: dict[str, bytes] = {
        "a.csv": table.encode("utf-16"),
        "a.jsonl": lines.replace("\n", "\r").encode(),
        "a.json": json.dumps([{"text": t} for t in documents]).encode(),
        "a.csv.gz": gzip.compress(table.encode()),
        "semicolons.csv": table.replace(",", ";", 1).encode().replace(b',"', b';"'),
        "a.txt": "\r".join(documents).encode(),
        "a.parquet": parquet([("text", documents)]),
    }
    (tmp_path / name).write_bytes(content[name])
    assert corpus.read(tmp_path / name).documents == tuple(documents)
    assert [r.text for r in read(tmp_path / name)] == documents
    strings = [dict(zip(("id", "text"), t, strict=True)) for t in enumerate(documents)]
    assert [t.text for t in texts.read(tmp_path / name)] == [t["text"] for t in strings]


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "headless.tsv", "pairs.parquet"])
def test_pairs_of_a_corpus(name: str, tmp_path: Path) -> None:
    pairs = [("red planet?", 'Mars, "rusty"'), ("who bakes?", "a baker"), ("deep?", '"The sea" is')]
    quoted = "".join(f'"{q}","{d.replace(chr(34), chr(34) * 2)}"\n' for q, d in pairs)
    tabs = "".join(f"{q}\t{d}\n" for q, d in pairs)
    content: dict[str, bytes] = {
        "pairs.csv": b"query,document\n" + quoted.encode(),
        "pairs.tsv": b"query\tdocument\n" + tabs.encode(),
        "headless.tsv": tabs.encode(),
        "pairs.parquet": parquet([("query", [q for q, _ in pairs]), ("document", [d for _, d in pairs])]),
    }
    (tmp_path / name).write_bytes(content[name])
    found = corpus.read(tmp_path / name)
    assert found.queries == tuple(q for q, _ in pairs)
    assert found.documents == tuple(d for _, d in pairs)
