"""20,000 lines that tokenizers read differently: scripts, code, runs of blanks, literal control tokens."""

import random
from collections.abc import Sequence
from pathlib import Path

from tokenizer_pair import lines
from tokenizers import Tokenizer

from embedding_runtime.tokenizers.tokenizer import Tokenizer as Own


def stress_lines(literals: Sequence[str]) -> list[str]:
    """`literals` are control tokens of the model, which stand in 3,000 of the lines."""
    draw = random.Random(18)
    files = sorted(Path(__file__).parents[2].rglob("*.py"))
    code = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    source = draw.sample(code, 5_000)
    blanks = (" ", "  ", "\t", "\n", "\r\n", "\u3000", "a", "▁")
    runs = ["".join(draw.choice(blanks) * draw.randint(1, 20) for _ in "four") for _ in range(2_000)]
    control = [
        "".join(draw.choice((*literals, "</b>", " ", "word", "<")) for _ in range(draw.randint(1, 8)))
        for _ in range(3_000)
    ]
    return [*source, *runs, *control, *lines(10_000, seed=18)]


def different_ids(own: Own, library: Tokenizer, texts: Sequence[str], *, allow_special: bool) -> list[str]:
    """The texts of which a bundle's tokenizer and the published tokenizer.json give different ids."""
    library.encode_special_tokens = not allow_special
    expected = library.encode_batch(list(texts))
    return [
        text
        for text, wanted in zip(texts, expected, strict=True)
        if own.encode(text, allow_special=allow_special) != wanted.ids
    ]
