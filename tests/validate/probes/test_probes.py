"""Probe texts, texts of exact lengths, and the sets of probes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from embedding_runtime.errors import InputError
from embedding_validate.probes import lengths, probes, texts
from embedding_validate.probes.probes import Limits, ProbeSet

SHARED = Path(__file__).parents[4] / "shared" / "standin-tokenizer" / "tokenizer.json"
PROMPTS = {"query": "task: search result | query: ", "document": "title: none | text: ", "STS": "task: | "}

# Classes of texts that are in no language.
NO_SCRIPTS = {"Whitespace", "Code", "Control tokens", "Symbols", "Normalisation", "Long words", "Emoji"}
NO_SCRIPTS |= {"Control", "Rare", "Mixed", "Prompts"}


@pytest.fixture(scope="module")
def count(tiny_checkpoint: Path) -> Callable[[str], int]:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text).ids)


def written(found: tuple[texts.Text, ...]) -> list[texts.Text]:
    """Those in a language, whose ids begin with its code."""
    return [t for t in found if t.script not in NO_SCRIPTS]


def test_packaged_texts_cover_scripts_and_oddities() -> None:
    found = texts.packaged()
    scripts = {t.script for t in found}
    assert len(scripts - NO_SCRIPTS) >= 29 and len({t.id.split("-")[0] for t in written(found)}) > 50
    assert {"Code", "Emoji", "Whitespace", "Control", "Control tokens"} <= scripts
    assert {"<bos>", ""} <= {t.text for t in found}
    whole = "".join(t.text for t in found)
    assert all(mark in whole for mark in ("\0", "<pad>", "\u2028", "▁▁", "\u200d", "\t", "\r\n"))


def test_reads_lines_and_jsonl(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_bytes("\ufeffone\r\n\n  two\u2028still two\n".encode())
    assert [(t.id, t.text) for t in texts.read(plain)] == [
        ("line-1", "one"),
        ("line-3", "  two\u2028still two"),
    ]
    rich = tmp_path / "a.jsonl"
    rich.write_text('{"text": "one", "script": "Latin"}\n\n{"id": "x", "text": ""}\n', encoding="utf-8")
    assert texts.read(rich) == (texts.Text("line-1", "Latin", "one"), texts.Text("x", "User", ""))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nbad \xff\n", "Line 2 .* not valid UTF-8"),
        ("a.txt", b"\n \n", "has no text"),
        ("a.jsonl", b'{"text": "x"}\n{oops\n', "Line 2 .* not valid JSON"),
        ("a.jsonl", b'["x"]\n', "Line 1 .* Expected an object"),
        ("a.jsonl", b'{"text": 3}\n', "Line 1 .* Expected an object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "lone surrogate"),
        ("a.jsonl", b'{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', "one id for several"),
        ("missing.txt", None, "cannot be read"),
    ],
)
def test_refuses_bad_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        texts.read(tmp_path / name)


@pytest.mark.parametrize("tokens", [2, 3, 4, 5, 16, 17, 64, 255, 512, 1025, 2048])
def test_composes_exact_lengths(tokens: int, count: Callable[[str], int]) -> None:
    pieces = [t.text for t in texts.packaged() if t.text.strip()]
    assert count(lengths.compose(pieces, tokens, count)) == tokens


def test_composes_exact_lengths_with_the_large_tokenizer() -> None:
    if not SHARED.exists():
        pytest.skip(f"{SHARED.name} of 262,144 entries is not here")
    tokenizer = Tokenizer.from_file(str(SHARED))
    found = probes.full(texts.packaged(), PROMPTS, Limits(256, 2048), lambda t: len(tokenizer.encode(t).ids))
    reached = [p.id for p in found.probes if p.script == "Length"]
    wanted = [3, 4, 16, 64, 255, 256, 257, 258, 511, 512, 513, 600, 639, 640, 641, 1023, 1024, 1025]
    wanted += [2046, 2047, 2048, 2049, 2050, 2548]
    assert reached == [f"length-{n}" for n in wanted]


def test_gives_up_below_rather_than_above() -> None:
    """A tokenizer that only makes pairs allows no odd length."""
    text = lengths.compose(["abc def"], 7, lambda t: len(t) // 2 * 2)
    assert len(text) // 2 * 2 == 6


@pytest.mark.parametrize("build", [probes.short, probes.full])
def test_sets_are_consistent(
    build: Callable[..., ProbeSet], count: Callable[[str], int], tiny_checkpoint: Path
) -> None:
    found = build(texts.packaged(), PROMPTS, Limits(8, 2048), count)
    by_id = {p.id: p for p in found.probes}
    assert len(by_id) == len(found.probes), "every id is there once"
    assert [found[i] for i in by_id] == list(found.probes)
    assert {i for batch in found.batches for i in batch} | set(found.dims) <= by_id.keys()
    for batch in found.batches:
        assert {by_id[i].verb for i in batch} == {"encode"}
        assert len({count(by_id[i].text) for i in batch}) > 1, "a batch must pad"
    assert {p.prompt_name for p in found.probes} >= PROMPTS.keys()
    assert {p.verb for p in found.probes} == {"encode", "encode_query", "encode_document"}
    assert any(p.title for p in found.probes)
    assert any(p.allow_special for p in found.probes)
    assert {f"length-{n}" for n in (7, 8, 9, 10, 2048)} <= by_id.keys()
    assert any(count(p.text) > 2048 for p in found.probes), "truncation is covered"


def test_a_library_to_search(count: Callable[[str], int]) -> None:
    """Its questions as queries, its passages as documents, some with titles where the prompt takes one."""
    for prompts, titles in ((PROMPTS, 18), ({**PROMPTS, "document": "passage: "}, 0)):
        found = [
            p
            for p in probes.full(texts.packaged(), prompts, Limits(8, 2048), count).probes
            if p.script == "Library"
        ]
        by_verb = {
            v: [p.text for p in found if p.verb == v and p.prompt_name is None]
            for v in ("encode_query", "encode_document")
        }
        assert by_verb["encode_query"] == [text for text, _ in texts.library().questions]
        assert by_verb["encode_document"] == [text for _, text in texts.library().passages]
        assert len([p for p in found if p.title]) == titles


def test_no_local_layers_no_window_edges(count: Callable[[str], int]) -> None:
    found = probes.short(texts.packaged(), {}, Limits(None, 64), count)
    assert [p.id for p in found.probes if p.script == "Length"] == [
        f"length-{n}" for n in (3, 16, 64, 116, 600)
    ]
    assert found.batches[0] == ("en-short", "empty", "en-question"), (
        "what is not there is left out of batches"
    )
    assert not any(p.title for p in found.probes), "no document prompt, no titles"


def test_own_texts_run_with_both_verbs_and_in_batches() -> None:
    own = [texts.Text(f"line-{n}", "User", f"text {n}") for n in range(10)]
    found = probes.of_texts(own, PROMPTS)
    assert len(found.probes) == 30
    assert [len(b) for b in found.batches] == [8, 2]
    assert len(probes.of_texts(own, {"STS": "x"}).probes) == 10


def test_texts_file_is_clean() -> None:
    """One object with three keys per line, so that a diff shows what changed."""
    for line in texts.TEXTS.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        assert json.loads(line).keys() == {"id", "script", "text"}
