"""Computes the reference's answers once per checkpoint and set of texts, and keeps them in the user's cache.

A cached answer is used only if everything that it depends on is the same: weights, the checkpoint's small
files, texts, lengths, the code that chooses and computes, and the libraries' versions.
"""

import hashlib
import inspect
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from embedding_export.checkpoint.checkpoint import Checkpoint
from embedding_export.composing import held_out_texts
from embedding_export.files import tokenizer_file
from embedding_runtime.bundle import Graph
from embedding_runtime.encoding import overflow
from embedding_runtime.errors import InputError
from embedding_runtime.machine.user_cache import cache_folder
from embedding_validate.probes import lengths, probes, texts
from embedding_validate.probes.probes import ProbeSet
from embedding_validate.probes.texts import Text
from embedding_validate.reference import chunks, text_only
from embedding_validate.reference import file as reference_file
from embedding_validate.reference import reference as reference_module
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import PACKAGES, Reference, ask, require

Progress = Callable[[int, int], None]

# Answers that nobody has asked for this long go when others are kept.
_KEPT_SECONDS = 30 * 24 * 3600.0
# Code and data that decide what is asked and how it is answered.
_CODE = (
    probes,
    lengths,
    chunks,
    reference_module,
    text_only,
    reference_file,
    overflow,
    tokenizer_file,
)
_SMALL = (".json", ".txt", ".model", ".jinja")
_DATA = (texts.TEXTS, texts.PASSAGES)


def answers(
    checkpoint: Checkpoint, own: Sequence[Text] | None, graphs: Sequence[Graph], progress: Progress
) -> Answers:
    """Answers to the probes that a bundle's `graphs` need: the full set, or the user's own texts; `progress`
    gets (done, total).

    Cached answers that cannot be read are computed again. The reference is freed before this returns.

    Raises:
        ReferenceLoadError: the reference cannot be loaded, or is not the model that the checkpoint describes.
    """
    require()
    buckets, held_out = probes.buckets(graphs), probes.composed(graphs)
    file = cache_folder() / "references" / f"{_key(checkpoint, own, buckets, held_out)}.npz"
    with suppress(InputError):
        cached = reference_file.load(file)
        with suppress(OSError):
            file.touch()
        return cached

    def choose(reference: Reference) -> ProbeSet:
        if own is not None:
            return probes.of_texts(own, reference.prompts)
        limits = replace(reference.limits, buckets=buckets, held_out=held_out)
        return probes.full(texts.packaged(), reference.prompts, limits, reference.count)

    computed = ask(checkpoint, choose, progress)
    with suppress(OSError):  # without a cache, they are computed again next time
        _keep(computed, file)
    return computed


def _keep(computed: Answers, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in file.parent.glob("*.npz"):
        if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
            old.unlink(missing_ok=True)
    reference_file.save(computed, file)


def _key(checkpoint: Checkpoint, own: Sequence[Text] | None, buckets: tuple[int, ...], held_out: bool) -> str:
    """A hash of everything that the answers depend on."""
    source = asdict(checkpoint.source)
    parts = {
        "source": {k: source[k] for k in ("name", "revision", "weights_sha256", "dtype", "qat", "notes")},
        "files": {f.name: _sha256(f.read_bytes()) for f in _small_files(checkpoint.path)},
        "overrides": checkpoint.config_overrides,
        "max_seq_length": checkpoint.max_seq_length,
        "own": None if own is None else [asdict(t) for t in own],
        "buckets": buckets,
        "held_out": held_out_texts.TEXTS if held_out else None,
        "code": {
            **{module.__name__: _sha256(inspect.getsource(module).encode()) for module in _CODE},
            **{file.name: _sha256(file.read_bytes()) for file in _DATA},
        },
        "versions": {name: version(name) for name in PACKAGES},
    }
    return _sha256(json.dumps(parts, sort_keys=True).encode())[:32]


def _small_files(folder: Path) -> list[Path]:
    """All files of a checkpoint except its weights, which `weights_sha256` covers."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _SMALL)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
