"""A tokenizer with plain added words of both kinds, and texts in which they lie close to each other."""

import json
import random
from pathlib import Path
from typing import Any

from embedding_export.files.tokenizer_file import TokenizerFile

WORDS = [
    "metoprolol",
    "high sugar",
    "Gene",
    "Gene B",
    "p53",
    "ab",
    "abab",
    "ΣΑΣ",
    "taxi",
    "▁x",
    " y",
    "ß!",
    "[X",
]
RAW = ["[X]", "<e>", "ab<e>", "eta"]


def with_tokens(source: Path, out: Path, lower: bool, *more: dict[str, Any]) -> TokenizerFile:
    """The stand-in's tokenizer with words of both kinds, and one that is a control token."""
    data = json.loads((source / "tokenizer.json").read_text())
    added = [t for t in data["added_tokens"] if t["id"] < 4096]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    new = [{"content": w, "normalized": True, **flags} for w in WORDS]
    new += [{"content": w, "normalized": False, **flags} for w in RAW]
    new += [{"content": "<start_of_image>b", "normalized": True, **flags}, *({**flags, **m} for m in more)]
    vocab, ids = data["model"]["vocab"], iter(range(4096, 5000))
    numbered = [{"id": vocab[t["content"]] if t["content"] in vocab else next(ids), **t} for t in new]
    for token in added:  # a control token of the normalized text hides what begins in it
        if token["content"] == "<start_of_image>":
            token["normalized"] = True
    out.write_text(json.dumps(data | {"added_tokens": [*added, *numbered]}))
    return TokenizerFile(out, lower=lower)


def mixtures(count: int, seed: int) -> list[str]:
    """The words, parts of them and other text, close to each other and in other cases."""
    draw = random.Random(seed)
    parts = [
        *WORDS,
        *RAW,
        "<start_of_image>",
        "<eos>",
        " ",
        "  ",
        "▁",
        "a",
        "b",
        "İ",
        "\u0307",
        "S",
        "Σ",
        "i",
        "\n",
    ]

    def part() -> str:
        chosen = draw.choice(parts)
        cut = chosen[: draw.randint(1, len(chosen))] if draw.random() < 0.3 else chosen
        return draw.choice((str, str, str.upper, str.lower, str.swapcase))(cut)

    return ["".join(part() for _ in range(draw.randint(1, 30))) for _ in range(count)]
