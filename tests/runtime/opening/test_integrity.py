"""Opening a bundle: hashes and stamps, golden ids and vectors, verdicts, and which graph is taken."""

import dataclasses
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_runtime import BundleError, Embedder, EngineError, InputError, ParityWarning
from embedding_runtime.bundle import (
    FileRecord,
    GoldenIds,
    GoldenVector,
    Graph,
    Manifest,
    Parity,
    load_manifest,
)
from embedding_runtime.engines import registry as engines
from embedding_runtime.machine import cpu
from embedding_runtime.machine.platforms import this_platform
from embedding_runtime.machine.user_cache import cache_folder
from embedding_runtime.opening import integrity, open_bundle, selection
from embedding_runtime.opening.golden import check_golden_vectors
from embedding_runtime.opening.selection import choose_graph
from embedding_runtime.vectors import Floats

DATA = "onnx/model.onnx_data"
Change = Callable[[Manifest], Manifest]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embedding-edge"


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def names(bundle: Path) -> list[str]:
    """The files that loading opens."""
    return [load_manifest(bundle).tokenizer.file, "onnx/model.onnx", DATA]


def change(bundle: Path, edit: Change) -> None:
    (bundle / "manifest.json").write_text(edit(load_manifest(bundle)).to_json())


def with_graph(**fields: object) -> Change:
    def edit(manifest: Manifest) -> Manifest:
        return dataclasses.replace(manifest, graphs=(dataclasses.replace(manifest.graphs[0], **fields),))  # type: ignore[arg-type]

    return edit


def flip(path: Path, keep_times: bool = False) -> None:
    """Change one byte in the middle, in place."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 1]))
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("place", range(3))
def test_a_changed_byte_is_refused(bundle: Path, place: int) -> None:
    name = names(bundle)[place]
    Embedder(bundle)
    flip(bundle / name)
    with pytest.raises(BundleError, match=rf"{name} has SHA-256 .*The bundle is damaged"):
        Embedder(bundle)


@pytest.mark.parametrize("place", range(3))
def test_another_size_and_a_missing_file_are_refused(bundle: Path, place: int) -> None:
    name = names(bundle)[place]
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"has \d+ bytes; the manifest says \d+"):
        Embedder(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Embedder(bundle)


def test_files_are_hashed_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    whole = integrity.sha256

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return whole(path)

    monkeypatch.setattr(integrity, "sha256", noted)
    Embedder(bundle)
    assert hashed == [Path(name).name for name in names(bundle)]
    hashed.clear()
    Embedder(bundle)
    assert hashed == []
    os.utime(bundle / DATA)
    Embedder(bundle)
    assert hashed == ["model.onnx_data"]
    hashed.clear()
    Embedder(bundle, verify="always")
    assert len(hashed) == 3


def test_verify_always_sees_what_a_stamp_cannot(bundle: Path) -> None:
    Embedder(bundle)
    flip(bundle / DATA, keep_times=True)
    Embedder(bundle)
    with pytest.raises(BundleError, match="SHA-256"):
        Embedder(bundle, verify="always")
    with pytest.raises(InputError, match="verify is 'never'"):
        Embedder(bundle, verify="never")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 0}', '{"version": 1, "files": 3, "golden": 4}']
)
def test_a_damaged_cache_costs_time_only(bundle: Path, cache: Path, content: str) -> None:
    Embedder(bundle)
    (stamps,) = (cache / "stamps").glob("*.json")
    stamps.write_text(content)
    Embedder(bundle)
    assert json.loads(stamps.read_text())["files"].keys() == set(names(bundle))


def test_an_unwritable_cache_costs_time_only(bundle: Path, cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    assert Embedder(bundle).encode("a").shape == (64,)


def test_a_user_without_a_home(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service may have: nothing is kept, and everything works."""

    def nowhere(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", nowhere)
    with Embedder.load(bundle, threads=1, device_cache=True) as embedder:
        assert embedder.encode("a").shape == (64,)


def test_a_cache_folder_that_is_not_absolute_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("~/.cache/embedding-edge").expanduser()


def test_golden_ids(bundle: Path) -> None:
    def edit(manifest: Manifest) -> Manifest:
        golden = GoldenIds("a text", (2, 3, 1))
        return dataclasses.replace(
            manifest, tokenizer=dataclasses.replace(manifest.tokenizer, golden=(golden,))
        )

    change(bundle, edit)
    with pytest.raises(BundleError, match=r"for 'a text'; the manifest says \[2, 3, 1\]"):
        Embedder(bundle)


def off_by(graph: Graph, difference: float) -> tuple[GoldenVector, ...]:
    golden = graph.golden[0]
    return (GoldenVector.of(golden.ids, golden.vector + np.float32(difference)), *graph.golden[1:])


def test_golden_vectors(bundle: Path) -> None:
    (graph,) = load_manifest(bundle).graphs
    assert Embedder(bundle).check_golden() <= 1e-6
    change(bundle, with_graph(golden=off_by(graph, 0.01), variant_id="other"))
    with pytest.raises(
        BundleError, match=r"off by 0\.01 from the vectors stored at export; 0\.0001 is allowed"
    ):
        Embedder(bundle)
    Embedder(bundle, allow_failed=True)
    change(bundle, with_graph(golden_tolerance={"any": 0.0001, cpu.cpu_kind(): 0.1}))
    Embedder(bundle)


def test_golden_vectors_are_compared_once_for_each_graph_and_cpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    whole = check_golden_vectors

    def noted(graph: Graph, run: Callable[[tuple[int, ...]], Floats]) -> float:
        compared.append(graph.key)
        return whole(graph, run)

    monkeypatch.setattr(open_bundle, "check_golden_vectors", noted)
    Embedder(bundle)
    Embedder(bundle)
    assert len(compared) == 1
    Embedder(bundle, verify="always")
    assert len(compared) == 2
    monkeypatch.setattr(open_bundle, "cpu_fingerprint", lambda: "another")
    Embedder(bundle)
    assert len(compared) == 3
    (graph,) = load_manifest(bundle).graphs
    change(bundle, with_graph(golden=off_by(graph, 0.01)))
    with pytest.raises(BundleError, match="off by"):
        Embedder(bundle)


def write_parity(bundle: Path, **entry: object) -> None:
    (graph,) = load_manifest(bundle).graphs
    entry = {"variant_id": graph.variant_id, "status": "passed", **entry}
    (bundle / "parity.json").write_text(json.dumps({"schema_version": 1, "graphs": {graph.key: entry}}))


def test_a_failed_graph_is_refused(bundle: Path) -> None:
    write_parity(bundle, status="failed", reason="cosine 0.5")
    with pytest.raises(BundleError, match=r"failed its comparison.*cosine 0\.5"):
        Embedder(bundle)
    assert Embedder(bundle, allow_failed=True).encode("a").shape == (64,)
    write_parity(bundle, status="failed", variant_id="some other graph")
    Embedder(bundle)


def test_a_failed_verdict_of_the_manifest(bundle: Path) -> None:
    change(bundle, with_graph(parity=Parity("failed", "mask")))
    with pytest.raises(BundleError, match="mask"):
        Embedder(bundle)
    write_parity(bundle)
    Embedder(bundle)


def test_an_unchecked_graph_warns_once(bundle: Path) -> None:
    change(bundle, with_graph(parity=Parity("not run", "no reference here")))
    with pytest.warns(ParityWarning, match="no reference here") as told:
        Embedder(bundle)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Embedder(bundle)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_verdict_that_cannot_be_read_is_refused(bundle: Path, content: str) -> None:
    (bundle / "parity.json").write_text(content)
    with pytest.raises(BundleError, match=r"parity\.json cannot be read"):
        Embedder(bundle)


def test_a_graph_the_engine_does_not_load(bundle: Path) -> None:
    """Right by its hash, but no graph: the manifest was made for a file that never was one."""
    (bundle / "onnx/model.onnx").write_bytes(b"nothing")
    record = {"onnx/model.onnx": FileRecord(7, integrity.sha256(bundle / "onnx/model.onnx"))}
    change(bundle, lambda m: dataclasses.replace(m, files={**m.files, **record}))
    with pytest.raises(EngineError, match=r"does not load .*model\.onnx"):
        Embedder(bundle)


def test_an_engine_that_is_too_old(bundle: Path) -> None:
    change(bundle, with_graph(engine_min_version="99.1"))
    with pytest.raises(EngineError, match=r"needs onnxruntime >= 99\.1; 1\..* is installed"):
        Embedder(bundle)


@pytest.mark.parametrize(
    ("cause", "told"), [(KeyboardInterrupt, KeyboardInterrupt), (ValueError, EngineError)]
)
def test_an_engine_interrupted_while_it_is_imported(
    cause: type[BaseException], told: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own library says that it could not be initialised, and why."""

    def stopped(_: str) -> None:
        raise ImportError("initialization failed") from cause()

    monkeypatch.setattr("importlib.import_module", stopped)
    with pytest.raises(told):
        engines.engine_module("onnx")


def test_an_engine_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before it is imported: afterwards it has made an id of the device already."""
    seen: list[str | None] = []
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(
        "importlib.import_module", lambda _: seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
    )
    engines.engine_module("onnx")
    assert seen == ["1"]


def test_no_engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="pip install onnxruntime"):
        Embedder(bundle)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": 32, "machine": "armv7l"}, "32-bit Python.*Install a 64-bit system"),
        ({"libc": "musl", "libc_version": ()}, "C library is musl"),
        (
            {"libc": "glibc", "libc_version": (2, 31)},
            r"Install one: pip install onnxruntime \(for onnx/fp32\)$",
        ),
    ],
)
def test_no_engine_for_this_platform(
    changes: dict[str, Any], words: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be installed is not recommended."""
    here = dataclasses.replace(this_platform(), **changes)
    monkeypatch.setattr(selection, "this_platform", lambda: here)
    monkeypatch.setattr(selection, "usable", lambda _: False)
    manifest = load_manifest(bundle)
    litert = dataclasses.replace(manifest.graphs[0], format="litert")
    with pytest.raises(EngineError, match=words):
        choose_graph(dataclasses.replace(manifest, graphs=(*manifest.graphs, litert)), None, None)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a folder"):
        Embedder(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Embedder(tmp_path)


@pytest.mark.parametrize(
    ("have", "precision", "taken"),
    [
        (["fp32", "int8", "mixed"], None, "int8"),
        (["int8_q4", "int8"], None, "int8"),
        (["fp32", "mixed", "int8_q4"], None, "int8_q4"),
        (["fp32", "mixed", "int4"], None, "mixed"),
        (["fp16", "fp32"], None, "fp32"),
        (["int4", "fp16"], None, "fp16"),
        (["fp32", "int4"], "int4", "int4"),
        (["int4"], None, None),
        (["fp32"], "int8", None),
    ],
)
def test_which_graph(bundle: Path, have: list[str], precision: str | None, taken: str | None) -> None:
    manifest = load_manifest(bundle)
    graphs = tuple(dataclasses.replace(manifest.graphs[0], precision=p) for p in have)  # type: ignore[arg-type]
    manifest = dataclasses.replace(manifest, graphs=graphs)
    if taken is None:
        with pytest.raises(InputError, match=f"it has: onnx/{have[0]}"):
            choose_graph(manifest, None, precision)
    else:
        assert choose_graph(manifest, None, precision).precision == taken


def test_a_format_without_an_engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(bundle, with_graph(format="litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    told = engines.unfit("litert") or "pip install 'embedding-edge[litert]' (for litert/fp32)"
    with pytest.raises(EngineError, match=re.escape(told)):
        Embedder(bundle, format="litert")
    with pytest.raises(EngineError, match="None of the installed engines"):
        Embedder(bundle)
    with pytest.raises(InputError, match="it has: litert/fp32"):
        Embedder(bundle, format="onnx")
