"""Learns a byte-fallback BPE vocabulary and writes it as Gemma's tokenizers are built; lower case only.

Knows nothing of where the texts come from. Pieces never join a word with its neighbour, a digit with a
letter, or two signs; a word inside a text begins with "▁", as spaces are replaced by it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
SPACE = "▁"
_BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
# What pieces may be made of; only while learning: the finished tokenizer runs over the whole text.
_PARTS = Regex(rf"{SPACE}?\p{{L}}+|{SPACE}?\p{{N}}{{1,4}}|{SPACE}?[^\p{{L}}\p{{N}}{SPACE}]|{SPACE}")
_ALPHABET = 400


def learn(texts: Iterator[str], size: int) -> Tokenizer:
    """A tokenizer with `size` entries or fewer, learned from texts."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", SPACE)])
    learner.pre_tokenizer = pre_tokenizers.Split(_PARTS, "isolated")
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=[*CONTROL, *_BYTES],
        initial_alphabet=[SPACE],
        limit_alphabet=_ALPHABET,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return _gemma_like(learner)


def _gemma_like(learner: Tokenizer) -> Tokenizer:
    """The same vocabulary and merges, with Gemma 3's normalizer, template and decoder."""
    model = json.loads(learner.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    bpe = models.BPE(
        vocab=model["vocab"], merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    made = Tokenizer(bpe)
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    ids = [(token, model["vocab"][token]) for token in ("<bos>", "<eos>")]
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> <bos>:1 $B:1 <eos>:1", special_tokens=ids
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    return made


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json without indentation: it travels with the model."""
    tokenizer.save(str(path), pretty=False)
