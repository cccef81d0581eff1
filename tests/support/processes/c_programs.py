"""Small C programs built with this machine's compiler, and the C reader of a table asked through one."""

import functools
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
READER = ROOT / "runtime" / "c" / "embedding_tokenizer.c"
SOURCES = ROOT / "tests" / "runtime" / "c"
COMPILER = shutil.which("cc")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Case(NamedTuple):
    """A text to be encoded; without `max_length` all of it is."""

    text: str | bytes
    max_length: int | None = None
    allow_special: bool = False
    prompt: str | bytes = ""

    def joined(self) -> str:
        """Prompt and text as one, where they are text."""
        return "".join(part if isinstance(part, str) else part.decode() for part in (self.prompt, self.text))


class Answer(NamedTuple):
    """What the reader says of a case: 0 and the ids, or the error's number."""

    status: int
    truncated: bool
    ids: list[int]


def compiled(
    out: Path, *sources: Path, flags: Sequence[str] = ("-O2",), libraries: Sequence[str] = ()
) -> Path:
    """A program of C11 sources, without a warning; where there is no compiler the test is skipped."""
    if COMPILER is None:
        pytest.skip("no C compiler (cc) on this machine")
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wshadow", "-pedantic"]
    include = ["-I", str(READER.parent)]
    command = [COMPILER, *strict, *flags, *include, *map(str, sources), *libraries, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return out


@functools.cache
def has_sanitizers(folder: Path) -> bool:
    """Whether the compiler brings AddressSanitizer and UndefinedBehaviorSanitizer, and they run here (they
    have to come before all that is preloaded)."""
    source = folder / "nothing.c"
    source.write_text("int main(void) { return 0; }\n")
    if COMPILER is None:
        return False
    built = subprocess.run(
        [COMPILER, *SANITIZED, str(source), "-o", str(folder / "nothing")], capture_output=True
    )
    return built.returncode == 0 and subprocess.run([str(folder / "nothing")]).returncode == 0


def encoded(program: Path, table: Path, cases: Sequence[Case], lower: bool = False) -> list[Answer]:
    """What `encode_cases.c` answers; whatever a sanitizer has to say fails the test."""
    packed = b"".join(map(_packed, cases))
    done = subprocess.run([program, table, str(int(lower))], input=packed, capture_output=True)
    assert done.returncode == 0, done.stdout[:300] + done.stderr[-3000:]
    numbers, answers, at = np.frombuffer(done.stdout, "<i4"), list[Answer](), 0
    while at < len(numbers):
        status, truncated, count = numbers[at : at + 3].tolist()
        answers.append(Answer(status, bool(truncated), numbers[at + 3 : at + 3 + count].tolist()))
        at += 3 + count
    assert len(answers) == len(cases)
    return answers


def _packed(case: Case) -> bytes:
    prompt, text = (t.encode() if isinstance(t, str) else t for t in (case.prompt, case.text))
    most = 3 * (len(prompt) + len(text)) + 2  # a space without an entry is three bytes, each a token
    length = most if case.max_length is None else case.max_length
    return struct.pack("=4I", len(prompt), len(text), length, case.allow_special) + prompt + text
