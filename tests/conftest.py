"""Fixtures that several test modules share."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import standin

from embedding_export import pipeline
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.files.tokenizer_file import TokenizerFile
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_export.tokenizer import table
from embedding_runtime import Embedder
from embedding_runtime.bundle import Parity, load_manifest
from embedding_validate.probes import probes, texts
from embedding_validate.reference.answers import Answers
from embedding_validate.reference.reference import Reference

# Python for a process that is to be held to files' permissions, as root's would not be.
WITHOUT_POWERS = (
    "import ctypes; libc = ctypes.CDLL(None)\n"
    "libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())"
)


@pytest.fixture(scope="session", autouse=True)
def _tables_proved_once() -> Iterator[None]:
    """Exports of one tokenizer share its table: proving it again takes more than a second of each.

    What calls `build_table` itself always proves it.
    """
    proved: dict[tuple[str, bool, tuple[str, ...]], bytes] = {}

    def build_table(source: TokenizerFile, out: Path) -> None:
        key = (source.library.to_str(), source.lower, source.without_row)
        if key in proved:
            out.write_bytes(proved[key])
        else:
            table.build_table(source, out)
            proved[key] = out.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "build_table", build_table)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stand-in with all defaults; tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    standin.write(folder, standin.Options())
    return folder


@pytest.fixture(scope="session")
def tiny_second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stand-in of EmbeddingGemma 2 with all defaults; tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny-2"
    standin.write(folder, standin.Options(model="embeddinggemma-2"))
    return folder


@pytest.fixture(scope="session", params=["tiny_checkpoint", "tiny_second"])
def either_checkpoint(request: pytest.FixtureRequest) -> Path:
    """A tiny stand-in of either model; tests must not change it."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny stand-in exported to fp32 ONNX, its verdict set to "passed"; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(load_checkpoint(tiny_checkpoint), folder, ExportOptions(precisions=("fp32",)), assumed)
    return folder


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_bundle`, of other weights: another space of the same size; tests must not change it."""
    folder = tmp_path_factory.mktemp("other")
    standin.write(folder / "checkpoint", standin.Options(seed=7))
    checkpoint = load_checkpoint(folder / "checkpoint")
    export_bundle(checkpoint, folder / "bundle", ExportOptions(("fp32",)), assumed)
    return folder / "bundle"


@pytest.fixture(scope="session")
def litert_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny stand-in, fp32 and int8, ONNX and LiteRT with three buckets; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "litert"
    options = ExportOptions(("fp32", "int8"), formats=("onnx", "litert"), buckets=(32, 64, 512))
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return folder


@pytest.fixture(scope="session")
def served_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny stand-in, fp32 and int8, with Matryoshka dimensions; tests must not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "served"
    options = ExportOptions(("fp32", "int8"), dims=(64, 32, 16))
    export_bundle(load_checkpoint(tiny_checkpoint), folder, options, assumed)
    return folder


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> Reference:
    """sentence-transformers on the tiny stand-in, on one thread."""
    import torch  # most tests do without

    torch.set_num_threads(1)
    return Reference.load(load_checkpoint(tiny_checkpoint))


@pytest.fixture(scope="module")
def answers(reference: Reference) -> Answers:
    """What it gives for the gate's probes up to 100 tokens: longer ones are for larger windows."""
    return gate_answers(reference, 100)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user cache of the test's own."""
    folder = tmp_path / "xdg"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within the block nothing can be written below a folder, which is made where there is none."""
    folder.mkdir(exist_ok=True)
    folders = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
    for each in folders:
        each.chmod(0o500)
    try:
        yield
    finally:
        for each in folders:
            each.chmod(0o700)


@pytest.fixture(scope="module")
def embedder(tiny_bundle: Path) -> Iterator[Embedder]:
    """The tiny bundle, opened once per module; tests must leave its settings as they were."""
    with Embedder.load(tiny_bundle, threads=1) as opened:
        yield opened


@pytest.fixture
def fresh(tiny_bundle: Path) -> Iterator[Embedder]:
    """One that has told no warning yet."""
    with Embedder.load(tiny_bundle, threads=1) as opened:
        yield opened


def gate_answers(reference: Reference, most_tokens: int, buckets: tuple[int, ...] = ()) -> Answers:
    """A reference's answers to the exporter's gate's probes of at most so many tokens."""
    limits = dataclasses.replace(reference.limits, buckets=buckets)
    chosen = probes.short(texts.packaged(), reference.prompts, limits, reference.count)
    kept = tuple(p for p in chosen.probes if len(reference.whole_ids(p)) <= most_tokens)
    return reference.answer(dataclasses.replace(chosen, probes=kept))


def assumed(bundle: Path) -> dict[str, Parity]:
    """A gate that passes everything, for tests of what comes after it."""
    return {graph.key: Parity("passed") for graph in load_manifest(bundle).graphs}


@pytest.fixture
def editable(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny stand-in that the test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size stand-in (1.2 GB, about ten seconds), for tests marked `full`; they must not change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "full"
    standin.write(folder, standin.Options(size="full"))
    return folder
