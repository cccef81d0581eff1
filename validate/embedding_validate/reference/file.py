"""`reference.npz`: the reference's answers in a file, so that a board validates without PyTorch.

Needs only numpy. Members: `about` (JSON, UTF-8), `vectors` float32 (probes, dim), `ids` int32 (all token ids
joined) and `ends` int64 (probes,), where each probe's ids end; `states` float32 (rows, hidden size), the
hidden states of the probes that `about` names under `states_of`, joined, a row for each id.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Source
from embedding_runtime.errors import InputError
from embedding_validate.files import replace_bytes
from embedding_validate.probes.probes import Probe, ProbeSet
from embedding_validate.reference.answers import Answer, Answers

FORMAT = "embedding-edge reference"
SCHEMA_VERSION = 3

Floats = NDArray[np.float32]

# What zip archives, arrays, JSON and dataclasses raise for bytes that are not theirs.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


def save(answers: Answers, path: Path) -> None:
    """Write answers to a sibling of `path`, then rename it, so that no half-written file is visible.

    Raises:
        OSError: the folder cannot be written to.
    """
    in_order = [answers.by_probe[p.id] for p in answers.probes.probes]
    states = {p.id: s for p in answers.probes.probes if (s := answers.by_probe[p.id].states) is not None}
    about = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **{f.name: getattr(answers, f.name) for f in dataclasses.fields(answers) if f.name != "by_probe"},
        "probes": dataclasses.asdict(answers.probes),
        "source": dataclasses.asdict(answers.source),
        "states_of": list(states),
    }
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        about=np.frombuffer(json.dumps(about, ensure_ascii=False).encode("utf-8"), dtype=np.uint8),
        vectors=np.stack([a.vector for a in in_order]).astype("<f4"),
        ids=np.concatenate([np.array(a.ids, dtype="<i4") for a in in_order]),
        ends=np.cumsum([len(a.ids) for a in in_order], dtype="<i8"),
        states=np.concatenate([np.zeros((0, 0), "<f4")] if not states else list(states.values())),
    )
    replace_bytes(path, buffer.getvalue())


def load(path: Path) -> Answers:
    """Read answers written by `save`.

    Raises:
        InputError: missing, damaged, not such a file, or of another schema version.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            about = json.loads(archive["about"].tobytes().decode("utf-8"))
            _check_schema(about, path)
            arrays = {name: archive[name] for name in ("vectors", "ids", "ends", "states")}
        return _answers(about, arrays)
    except FileNotFoundError as e:
        raise InputError(f"There is no {path}. Write one with: validate-embedding ... --save {path}") from e
    except _DAMAGED as e:
        if isinstance(e, InputError):
            raise
        raise InputError(
            f"{path} is damaged or not a reference file ({type(e).__name__}: {e}). Copy it again, or write "
            "it again with: validate-embedding BUNDLE --reference CHECKPOINT --save FILE"
        ) from e


def _check_schema(about: Any, path: Path) -> None:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError("it is not marked as one")
    if (version := about.get("schema_version")) != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version {version!r}; this version reads {SCHEMA_VERSION}. Write it again "
            "with the version of embedding-edge that reads it: validate-embedding ... --save FILE"
        )


def _answers(about: dict[str, Any], arrays: dict[str, Any]) -> Answers:
    probes = about["probes"]
    probe_set = ProbeSet(
        name=probes["name"],
        probes=tuple(Probe(**p) for p in probes["probes"]),
        batches=tuple(tuple(b) for b in probes["batches"]),
        dims=tuple(probes["dims"]),
    )
    ids = [tuple(part.tolist()) for part in np.split(arrays["ids"], arrays["ends"][:-1])]
    vectors = arrays["vectors"]
    if not len(probe_set.probes) == len(ids) == len(vectors) or arrays["ends"][-1] != len(arrays["ids"]):
        raise ValueError("its parts have different lengths")
    names = [p.id for p in probe_set.probes]
    states = _states(about["states_of"], dict(zip(names, map(len, ids), strict=True)), arrays["states"])
    by_probe = {n: Answer(i, v, states.get(n)) for n, i, v in zip(names, ids, vectors, strict=True)}
    source = Source(**{**about["source"], "notes": tuple(about["source"]["notes"])})
    rest = {
        f.name: about[f.name]
        for f in dataclasses.fields(Answers)
        if f.name not in ("probes", "by_probe", "source")
    }
    return Answers(probes=probe_set, by_probe=by_probe, source=source, **rest)


def _states(names: list[str], tokens: dict[str, int], rows: Floats) -> dict[str, Floats]:
    """The rows of each probe's hidden states."""
    if sum(tokens[n] for n in names) != len(rows):
        raise ValueError("its parts have different lengths")
    ends = np.cumsum([tokens[n] for n in names], dtype=np.int64)
    return dict(zip(names, np.split(rows, ends[:-1]), strict=True)) if names else {}
