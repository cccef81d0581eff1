"""Makes the data with which a bundle checks itself: texts with their ids, and ids with this graph's vectors.

The ids come from the `tokenizers` library, which is the oracle. The vectors come from the graph itself, run
once after writing on ids of real text; whether they are right is for the gate to say.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.composing import held_out_texts
from embedding_export.errors import CheckpointError
from embedding_export.weights.sample import BUILT_IN, CalibrationTexts
from embedding_runtime.bundle import SEVEN_BITS, GoldenIds, GoldenVector
from embedding_runtime.engines.onnx_session import OnnxSession
from embedding_runtime.engines.registry import Session
from embedding_runtime.machine.threads import available_cpus
from embedding_runtime.opening.golden import golden_difference
from embedding_runtime.vectors import Floats

# Each line for a trap: prompts, space runs, bytes behind no piece, joined emoji, control tokens as text,
# scripts.
TEXTS = (
    "",
    "apple",
    "task: search result | query: Which planet is known as the Red Planet?",
    "title: none | text:  two  spaces,\ttab\nand\n\nlines ",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627"
    " \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f469\u200d\U0001f4bb e\u0301 \u00e9 \ue000 \x00",
    "<bos> <eos> <pad> are text \u2581\u2581 too",
)
# Lengths of the golden vectors' inputs; the last passes the local layers' window by `BEYOND_WINDOW` or more.
LENGTHS = (3, 24, 301)
BEYOND_WINDOW = 45
# Tokens of a user's texts that are calibrated on, of one and of all: memory and time grow with them, and more
# than twice the built-in ones' show little that is new.
LONGEST_TEXT, MOST_TOKENS = 2048, 12_288


@dataclass(frozen=True)
class SpecialIds:
    """Control tokens, golden ids and ids to calibrate on, as the `tokenizers` library gives them;
    `calibration` says of which texts these are. `beside` are ids of the built-in texts where these are
    others: a user's texts may have less in them that makes activations large."""

    bos_id: int
    eos_id: int
    pad_id: int
    golden: tuple[GoldenIds, ...]
    sample: tuple[tuple[int, ...], ...]
    calibration: str
    beside: tuple[tuple[int, ...], ...] = ()


def golden_ids(checkpoint: Checkpoint, texts: CalibrationTexts = BUILT_IN) -> SpecialIds:
    """Control tokens from the tokenizer's own template, and ids for `TEXTS`, control tokens in them taken as
    text; these and `texts` are calibrated on.

    Raises:
        CheckpointError: the template is not `<bos> … <eos>`, or there is no `<pad>`.
    """
    tokenizer = checkpoint.tokenizer.library
    tokenizer.encode_special_tokens = True
    ends = tokenizer.encode("").ids
    pad = tokenizer.token_to_id("<pad>")
    if len(ends) != 2 or pad is None:
        raise CheckpointError(
            f"{checkpoint.tokenizer.path} gives {ends} for an empty text and {pad} for <pad>; expected "
            "[<bos>, <eos>] and an id. Only tokenizers built as Gemma's are supported."
        )
    ids = [tuple(tokenizer.encode(t).ids) for t in TEXTS]
    golden = tuple(GoldenIds(t, i) for t, i in zip(TEXTS, ids, strict=True))
    sample = _sample(checkpoint, texts)
    beside = () if texts.file is None else tuple(_sample(checkpoint, BUILT_IN))
    described = texts.described(len(sample))
    return SpecialIds(ends[0], ends[1], pad, golden, (*ids, *sample), described, beside)


def held_out_ids(checkpoint: Checkpoint) -> tuple[tuple[int, ...], ...]:
    """The ids of texts that calibration does not use, with the checkpoint's prompts in turn; texts that are
    too long for the model are left out."""
    prompts = checkpoint.prompts if checkpoint.include_prompt else {}
    texts = (prompts.get(name or "", "") + text for name, text in held_out_texts.prompted(prompts))
    ids = (tuple(_ids(checkpoint, text)) for text in texts)
    return tuple(token_ids for token_ids in ids if len(token_ids) <= checkpoint.max_seq_length)


def _ids(checkpoint: Checkpoint, text: str) -> list[int]:
    """The ids of a text; control tokens in it are read as text."""
    tokenizer = checkpoint.tokenizer.library
    tokenizer.encode_special_tokens = True
    token_ids: list[int] = tokenizer.encode(text.lower() if checkpoint.do_lower_case else text).ids
    return token_ids


def _sample(checkpoint: Checkpoint, texts: CalibrationTexts) -> list[tuple[int, ...]]:
    """The ids of texts to calibrate on, under the checkpoint's prompts in turn: of a user's as many as
    `MOST_TOKENS` hold, from all over the file, and none that compositions are judged by."""
    prompts = list(dict.fromkeys(["", *checkpoint.prompts.values()]))
    if texts.file is None:
        return [
            tuple(_ids(checkpoint, prompt + text))
            for prompt, text in zip(itertools.cycle(prompts), texts.texts, strict=False)
        ]
    longest, left = min(checkpoint.max_seq_length, LONGEST_TEXT), MOST_TOKENS
    own = [text for text in texts.texts if text not in held_out_texts.TEXTS]
    by_number: dict[int, tuple[int, ...]] = {}
    for n, prompt in zip(_spread(len(own)), itertools.cycle(prompts), strict=False):
        ids = _ids(checkpoint, prompt + own[n])
        by_number[n] = (*ids[: longest - 1], *ids[longest - 1 :][-1:])
        left -= len(by_number[n])
        if left < 0 and len(by_number) > 1:
            del by_number[n]
            break
    return [by_number[n] for n in sorted(by_number)]


def _spread(count: int) -> list[int]:
    """0 … count - 1 in an order of which every beginning is spread evenly: multiples of the golden ratio,
    whose fractions are."""
    return sorted(range(count), key=lambda n: (n + 1) * 0.6180339887498949 % 1)


def seven_bits_tolerance(graph: Path, golden: Sequence[GoldenVector], tolerance: float) -> dict[str, float]:
    """The entry of `golden_tolerance` for CPUs that round activations to 7 bits: the largest difference that
    this makes to golden vectors, and `tolerance`, which 8 bits have; none if it makes more than that.
    """
    session = OnnxSession(graph, available_cpus(), seven_bits=True)
    worst = golden_difference(golden, lambda ids: _vector(session, ids))
    return {SEVEN_BITS: round(worst + tolerance, 4)} if worst <= tolerance else {}


def golden_vectors(
    session: Session, special: SpecialIds, window: int, longest: int
) -> tuple[GoldenVector, ...]:
    """Run a written graph, which takes up to `longest` tokens, on real text of a few lengths, unpadded.

    Real text, because random ids are nothing that a trained model was made for: there the last digits in
    which engines differ grow until sound int8 vectors are 0.03 apart, where those of text are 0.005 apart.
    """
    sample = special.beside or special.sample[len(special.golden) :]
    text = [i for ids in sample for i in ids[1:-1]]
    golden = []
    *short, last = LENGTHS
    for length in (n for n in (*short, max(last, window + BEYOND_WINDOW)) if n <= longest):
        ids = [special.bos_id, *itertools.islice(itertools.cycle(text), length - 2), special.eos_id]
        golden.append(GoldenVector.of(ids, _vector(session, ids)))
    return tuple(golden)


def _vector(session: Session, ids: Sequence[int]) -> Floats:
    """A graph's vector (D,) for one text, unpadded."""
    tokens = np.array([ids], np.int64)
    (vectors,) = session.run(tokens, np.ones_like(tokens), ("sentence_embedding",))
    vector: Floats = vectors[0]
    return vector
