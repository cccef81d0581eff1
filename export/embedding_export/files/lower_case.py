"""Writes `do_lower_case` into a tokenizer.json, so that every client gets the ids that the runtime gets.

When sentence-transformers loads a model it puts a Lowercase step before the tokenizer's normalizer; the
checkpoint's file does not show it.
"""

from typing import Any

# Σ first: Lowercase of the `tokenizers` library takes each character on its own, as the runtime does, while
# that of transformers.js makes the last Σ of a word a ς.
SIGMA = {"type": "Replace", "pattern": {"String": "Σ"}, "content": "σ"}
LOWERCASE = {"type": "Lowercase"}
# A class of transformers that uses tokenizer.json as it is; its Gemma classes build their own normalizer.
AS_WRITTEN = "PreTrainedTokenizerFast"


def lowered(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """A normalizer that lowers, then applies `normalizer`; that itself if it already lowers first."""
    steps = [] if normalizer is None else [normalizer]
    while steps and steps[0].get("type") == "Sequence":
        steps = [*steps[0]["normalizers"], *steps[1:]]
    while steps and steps[0] in (SIGMA, LOWERCASE):
        steps = steps[1:]
    return {"type": "Sequence", "normalizers": [SIGMA, LOWERCASE, *steps]}


def keep_as_written(tokenizer_config: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer_config.json with which transformers keeps the steps that lower."""
    if str(tokenizer_config.get("tokenizer_class")).startswith("Gemma"):
        return tokenizer_config | {"tokenizer_class": AS_WRITTEN}
    return tokenizer_config
