"""`runtime/c/embedding_tokenizer.c`: the library's ids under sanitizers, whatever the table or the text."""

import json
import random
import re
import resource
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from added_words import mixtures, with_tokens
from c_programs import READER, SANITIZED, SOURCES, Answer, Case, compiled, encoded, has_sanitizers
from tokenizer_pair import SHARED, Both, from_pieces, lines

from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.tokenizer.stress_texts import stress_texts
from embedding_runtime.tokenizers.table_file import PREFIX
from embedding_runtime.tokenizers.unicode_lower import lower

DEMO = Path(__file__).parents[3] / "models" / "demo" / "tokenizer.json"
PROMPTS = ("", "", "task: search result | query: ", "title: none | text:", "<bo", "a", "▁ ")
LENGTHS = (None, None, 2, 3, 8, 33, 512)
INVALID_UTF8, INVALID_ARGUMENT, NO_MEMORY = 5, 6, 7
NOT_UNDERSTOOD = "4 .* does not understand, near its byte"
LONG = {
    "a run": "a" * 1500,
    "two letters": "ab" * 700,
    "spaces": " " * 700,
    "markers": "▁" * 400,
    "newlines": "\n" * 500,
    "no entry": "\U00010348" * 400,
    "han": "中文" * 500,
    "dotted": "İ" * 500,
    "controls": "".join(map(chr, range(160))),
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds a program from the reader and one of the sources here, with sanitizers where there are any."""
    folder = tmp_path_factory.mktemp("c")
    built: dict[tuple[str, ...], Path] = {}

    def program(name: str, *flags: str) -> Path:
        sanitized = SANITIZED if has_sanitizers(folder) and "-O2" not in flags else ()
        if (name, *flags) not in built:
            out, sources = folder / f"{name}{len(built)}", (SOURCES / f"{name}.c", READER)
            built[name, *flags] = compiled(out, *sources, flags=(*sanitized, *flags))
        return built[name, *flags]

    return program


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tiny_checkpoint / "tokenizer.json", tmp_path_factory.mktemp("c") / "tiny.table")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(DEMO, tmp_path_factory.mktemp("c") / "demo.table")


@pytest.fixture(scope="session")
def lowered(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    file = TokenizerFile(tiny_checkpoint / "tokenizer.json", lower=True)
    return Both(file, tmp_path_factory.mktemp("c") / "lowered.table")


@pytest.fixture(scope="session")
def words(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("c")
    return Both(with_tokens(tiny_checkpoint, folder / "tokenizer.json", False), folder / "words.table")


@pytest.fixture(scope="session")
def lowered_words(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("c")
    return Both(with_tokens(tiny_checkpoint, folder / "tokenizer.json", True), folder / "words.table")


def differences(both: Both, program: Path, texts: list[str]) -> list[tuple[Case, Answer]]:
    """Cases in which the C reader gives other ids than the library, with and without prompts and limits."""
    draw = random.Random(len(texts))
    cases = [Case(t, draw.choice(LENGTHS), draw.random() < 0.5, draw.choice(PROMPTS)) for t in texts]
    wrong = []
    for case, answer in zip(cases, encoded(program, both.path, cases, both.info.do_lower_case), strict=True):
        whole = both.expected(case.joined(), allow_special=case.allow_special)
        length = case.max_length or len(whole)
        longer = len(whole) > length
        ids = [*whole[: length - 1], whole[-1]] if longer else whole
        if answer != (0, longer, ids):
            wrong.append((case, answer))
    return wrong


def texts_for(both: Both, count: int) -> list[str]:
    return lines(count, seed=3) + from_pieces(both, count, seed=4) + stress_texts(both.source, count)


@pytest.mark.parametrize("name", ["tiny", "demo", "lowered"])
def test_ids_are_the_librarys(
    name: str, programs: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    both: Both = request.getfixturevalue(name)
    for flags in ((), ("-DEMBEDDING_TOKENIZER_BLOCK=24",)):
        assert differences(both, programs("encode_cases", *flags), texts_for(both, 700)) == []


def test_no_difference_on_100_000_lines(demo: Both, programs: Callable[..., Path]) -> None:
    texts = lines(34_000, seed=5) + from_pieces(demo, 34_000, seed=6) + stress_texts(demo.source, 33_000)
    assert len(texts) >= 100_000
    assert differences(demo, programs("encode_cases", "-O2"), texts) == []


@pytest.mark.full
def test_no_difference_on_100_000_lines_at_full_size(programs: Callable[..., Path], tmp_path: Path) -> None:
    if not SHARED.is_file():
        pytest.skip("the full-size shared tokenizer is not beside this checkout")
    both = Both(SHARED, tmp_path / "shared.table")
    assert differences(both, programs("encode_cases"), texts_for(both, 34_000)) == []


@pytest.mark.parametrize("name", ["words", "lowered_words"])
def test_added_words_are_found_where_the_library_finds_them(
    name: str, programs: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    words: Both = request.getfixturevalue(name)
    assert words.path.read_bytes()[8:12] == struct.pack("<I", 2)
    texts = [*mixtures(2000, seed=1), *lines(100, seed=2), "METOPROLOL metoprolol" * 50, *LONG.values()]
    for flags in ((), ("-DEMBEDDING_TOKENIZER_BLOCK=8",)):
        assert differences(words, programs("encode_cases", *flags), texts) == []


def test_nothing_begins_inside_a_control_token_that_is_text(
    tiny_checkpoint: Path, programs: Callable[..., Path], tmp_path: Path
) -> None:
    more = [{"content": content, "normalized": False} for content in ("os", "os>x", "s><e")]
    file = with_tokens(tiny_checkpoint, tmp_path / "tokenizer.json", False, *more)
    texts = ["<bos>", "<bos>x", "os>x", "<bos><eos>x", "a<bos>os", "<eos", "cosx"]
    both = Both(file, tmp_path / "x.table")
    assert both.expected("os>x")[1:-1] != both.expected("<bos>x")[-2:-1]
    assert differences(both, programs("encode_cases"), 8 * texts) == []


@pytest.mark.parametrize("block", [8, 37, 256])
def test_long_words_however_small_the_blocks(tiny: Both, block: int, programs: Callable[..., Path]) -> None:
    texts = [*LONG.values(), *(a + b for a in LONG.values() for b in LONG.values())]
    program = programs("encode_cases", f"-DEMBEDDING_TOKENIZER_BLOCK={block}")
    assert differences(tiny, program, texts) == []


def test_every_character_is_lowered_as_the_runtime_does(tiny: Both, programs: Callable[..., Path]) -> None:
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    texts = [" ".join(characters[i : i + 64]) for i in range(0, len(characters), 64)]
    program = programs("encode_cases", "-O2")
    found = encoded(program, tiny.path, [Case(t) for t in texts], lower=True)
    wanted = encoded(program, tiny.path, [Case("".join(map(lower, t))) for t in texts])
    assert found == wanted


def test_bytes_that_are_not_utf8_are_refused_as_python_refuses_them(
    tiny: Both, programs: Callable[..., Path]
) -> None:
    draw = random.Random(9)
    good = [text.encode() for text in ("a", "é", "中", "🙂")]
    parts = [*good, b"\xed\xa0\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80"]
    texts = [b"".join(draw.choices(parts, k=3)) + draw.randbytes(draw.randint(0, 3)) for _ in range(4000)]
    texts += [p[:i] for p in parts for i in range(5)] + [bytes([b]) for b in range(256)]
    cases = [Case(t) if i % 2 else Case("", prompt=t) for i, t in enumerate(texts)]
    for text, answer in zip(texts, encoded(programs("encode_cases"), tiny.path, cases), strict=True):
        try:
            wanted = Answer(0, False, tiny.table.encode(text.decode()))
        except UnicodeDecodeError:
            wanted = Answer(INVALID_UTF8, False, [])
        assert answer == wanted, text


def test_a_limit_without_room_is_refused(tiny: Both, programs: Callable[..., Path]) -> None:
    found = encoded(programs("encode_cases"), tiny.path, [Case("a", 0), Case("a", 1), Case("a", 2)])
    assert [answer.status for answer in found] == [INVALID_ARGUMENT, INVALID_ARGUMENT, 0]


def test_ids_are_the_runtimes(demo: Both, programs: Callable[..., Path]) -> None:
    cases = [Case(text, 40, special) for text in texts_for(demo, 300) for special in (False, True)]
    wanted = [demo.table.encode(c.joined(), 40, allow_special=c.allow_special) for c in cases]
    assert [answer.ids for answer in encoded(programs("encode_cases"), demo.path, cases)] == wanted


def refusal(program: Path, path: Path) -> str:
    done = subprocess.run([program, path, "0"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return done.stdout.strip()


def with_header(raw: bytes, change: Callable[[str], str]) -> bytes:
    """A table with another header of the same length, whose checksum is right."""
    magic, version, size, _ = PREFIX.unpack_from(raw)
    header = change(raw[PREFIX.size : PREFIX.size + size].decode()).encode()
    assert len(header) == size
    return PREFIX.pack(magic, version, size, zlib.crc32(header)) + header + raw[PREFIX.size + size :]


def swapped(old: str, new: str) -> Callable[[str], str]:
    def change(header: str) -> str:
        assert header.count(old) == 1
        return header.replace(old, new).ljust(len(header))[: len(header)]

    return change


def fewer(section: str) -> Callable[[str], str]:
    """A header whose section has one item less than the file."""
    pattern = rf'(?<="{section}":{{"type":"I","offset":)(\d+,"count":)(\d+)'
    return lambda header: re.sub(pattern, lambda m: f"{m[1]}{int(m[2]) - 1}", header)


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "1 .* cannot be read \\(it is empty\\)"),
    "short": (lambda raw: raw[:19], "4 .* has 19 bytes, fewer than a table's prefix"),
    "foreign": (lambda raw: b"PK" + raw[2:], "2 .* is no tokenizer table"),
    "newer": (lambda raw: raw[:8] + b"\3" + raw[9:], "3 .* version 3; this reader reads 1 and 2"),
    "cut in its header": (lambda raw: raw[:100], "4 .* damaged in its header"),
    "a bit of its header": (lambda raw: flipped(raw, 40), "4 .* damaged in its header"),
    "a header too long": (lambda raw: raw[:12] + b"\xff" * 4 + raw[16:], "4 .* damaged in its header"),
    "cut": (lambda raw: raw[:-1], "4 .* has [0-9]+ bytes; its section added_token needs more"),
    "longer": (lambda raw: raw + b"\0", "4 .* has [0-9]+ bytes, sections for"),
    "a bit of its last section": (
        lambda raw: flipped(raw, len(raw) - 3),
        "4 .* section added_token \\(wrong CRC-32",
    ),
    "an unknown field": (
        lambda raw: with_header(raw, swapped('"cuts"', '"cuta"')),
        NOT_UNDERSTOOD,
    ),
    "a fraction": (
        lambda raw: with_header(raw, swapped('"bos_id":2', '"bos_id":.')),
        NOT_UNDERSTOOD,
    ),
    "a field twice": (
        lambda raw: with_header(raw, swapped('"bos_id":2', '"eos_id":2')),
        NOT_UNDERSTOOD,
    ),
    "slots that are no power of two": (
        lambda raw: with_header(raw, fewer("piece_slots")),
        "4 .* sizes that are not a table's",
    ),
    "fewer tokens than nodes": (
        lambda raw: with_header(raw, fewer("added_token"))[:-4],
        "4 .* sizes that are not a table's",
    ),
    "a large id": (
        lambda raw: with_header(raw, lambda h: re.sub(r'"bos_id":2(.*?) {6}', r'"bos_id":2097152\1', h)),
        "4 .* sizes that are not a table's",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_table_is_refused(
    name: str, tiny: Both, programs: Callable[..., Path], tmp_path: Path
) -> None:
    change, told = REFUSED[name]
    (tmp_path / "x.table").write_bytes(change(tiny.path.read_bytes()))
    said = refusal(programs("encode_cases"), tmp_path / "x.table")
    assert re.match(told, said), said
    assert said.endswith(".")


def test_a_file_that_is_none_is_refused(programs: Callable[..., Path], tmp_path: Path) -> None:
    assert "No such file" in refusal(programs("encode_cases"), tmp_path / "none")
    assert "not a file" in refusal(programs("encode_cases"), tmp_path)


@pytest.mark.parametrize("name", ["tiny", "lowered_words"])
def test_no_damaged_table_is_read_outside_of_itself(
    name: str, programs: Callable[..., Path], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    both: Both = request.getfixturevalue(name)
    program = programs("fuzz_tables", "-DEMBEDDING_TOKENIZER_BLOCK=24")
    if not has_sanitizers(program.parent):
        pytest.skip("cc has no AddressSanitizer here: nobody would see a read outside of a table")
    done = subprocess.run([program, both.path, "1", "600"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    opened, gave_ids, refused = map(int, done.stdout.split())
    assert min(opened, gave_ids, refused) > 100


def small_heap(most: int) -> Callable[[], None]:
    """For a process that may take so many bytes of memory; mapped files do not count."""
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def test_opening_takes_no_memory_that_grows_with_the_table(demo: Both, programs: Callable[..., Path]) -> None:
    assert demo.path.stat().st_size > 1_000_000
    program = programs("encode_cases", "-O2")
    case = struct.pack("=4I", 0, 5, 64, 0) + b"hello"
    less = small_heap(700_000)
    done = subprocess.run([program, demo.path, "0"], input=case, capture_output=True, preexec_fn=less)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.split()[0]) < 0.002  # seconds to open; 0.0002 when measured


def test_a_lack_of_memory_is_told(demo: Both, programs: Callable[..., Path]) -> None:
    case = struct.pack("=4I", 0, 3_000_000, 500_000, 0) + b"a" * 3_000_000
    found = []
    for most in (7_000_000, 100_000_000):
        done = subprocess.run(
            [programs("encode_cases", "-O2"), demo.path, "0"],
            input=case,
            capture_output=True,
            preexec_fn=small_heap(most),
        )
        found.append(struct.unpack_from("=3i", done.stdout))
    assert found[0] == (NO_MEMORY, 0, 0)
    assert found[1][0] == 0 < found[1][2]


@pytest.mark.parametrize("part", ["word ", "a", "ab", " ", "İ", "\U00010348"])
def test_a_long_text_costs_what_is_kept_of_it(part: str, demo: Both, programs: Callable[..., Path]) -> None:
    text = part * (4_000_000 // len(part))
    started = time.process_time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    found = encoded(programs("encode_cases", "-O2"), demo.path, [Case(text, 2048)])[0]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1
    assert time.process_time() - started < 3
    assert found == (0, True, demo.table.encode(text, 2048))


@pytest.mark.parametrize("part", ["a", " ", "<b", "\U00010348"])
def test_time_grows_with_length_not_its_square(part: str, demo: Both, programs: Callable[..., Path]) -> None:
    def seconds(characters: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        encoded(programs("encode_cases", "-O2"), demo.path, [Case(part * (characters // len(part)))])
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    seconds(1000)
    assert seconds(800_000) < 20 * max(seconds(100_000), 0.02)


def test_the_conformance_file_is_reproduced(tiny_bundle: Path, programs: Callable[..., Path]) -> None:
    rows = [json.loads(line) for line in (tiny_bundle / "tokenizer_conformance.jsonl").open(encoding="utf-8")]
    cases = [Case(row["text"], row["max_length"], row["allow_special"]) for row in rows]
    found = encoded(programs("encode_cases"), tiny_bundle / "tokenizer.table", cases)
    assert [answer.ids for answer in found] == [row["ids"] for row in rows]
    assert any(answer.truncated for answer in found)


def test_the_pages_program_gives_the_ids(demo: Both, tmp_path: Path) -> None:
    page = (READER.parent / "README.md").read_text(encoding="utf-8")
    (tmp_path / "ids.c").write_text(re.findall(r"```c\n(.*?)```", page, re.S)[0], encoding="utf-8")
    program = compiled(tmp_path / "ids", tmp_path / "ids.c", READER)
    prompt, text = "task: search result | query: ", "Which planet is red?"
    done = subprocess.run([program, demo.path, prompt, text], capture_output=True, text=True)
    assert done.stdout.split() == list(map(str, demo.expected(prompt + text)))
    done = subprocess.run([program, demo.path, prompt, "word " * 3000], capture_output=True, text=True)
    assert done.stdout.endswith(" 1 (the text is longer than the model reads)\n")
    assert subprocess.run([program, tmp_path / "none", prompt, text], capture_output=True).returncode == 1
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [program, demo.path, prompt, text], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "standard output: No space left on device\n")
