"""Fine-tunes with other stages: a Dropout, any number of Dense, a stored dimension; exported and proved."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from advice import run_advised
from conftest import assumed
from edits import change, reference
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Dropout

from embedding_export.audit.audit import audit_graph
from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import AuditError, CheckpointError, ExportError, ParityError
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder, EmbeddingWarning
from embedding_runtime.bundle import load_manifest
from embedding_runtime.encoding.options import Options
from embedding_runtime.encoding.overflow import Cutter, Pieces, Request
from embedding_validate.diagnosis import hypotheses
from embedding_validate.gate import parity_gate

TEXTS = ["Mars is the red planet", "a stone", "naïve café"]
MODEL = "config_sentence_transformers.json"


def dense(into: int, out: int, *, bias: bool = True, tanh: bool = False) -> Dense:
    activation = torch.nn.Tanh() if tanh else torch.nn.Identity()
    return Dense(into, out, bias=bias, activation_function=activation)


STAGES: dict[str, Callable[[Any], list[Any]]] = {
    "a Dropout": lambda m: [m[0], m[1], Dropout(0.3), m[2], m[3], m[4]],
    "a Dropout before and after Normalize": lambda m: [*list(m)[:4], Dropout(0.1), m[4], Dropout(0.2)],
    "a third Dense": lambda m: [*list(m)[:4], dense(64, 24, bias=False), m[4]],
    "four Dense, two of them with tanh": lambda m: [
        *list(m)[:4],
        dense(64, 96, tanh=True),
        Dropout(0.1),
        dense(96, 48, tanh=True),
        m[4],
    ],
    "five Dense without end": lambda m: [*list(m)[:4], dense(64, 32), dense(32, 80), dense(80, 16)],
}


def saved(tiny_checkpoint: Path, out: Path, stages: Callable[[Any], list[Any]]) -> Path:
    torch.manual_seed(3)
    model = reference(tiny_checkpoint)
    prompts = {name: text or "" for name, text in model.prompts.items()}
    SentenceTransformer(modules=stages(model), prompts=prompts, device="cpu").save_pretrained(str(out))
    return out


@pytest.mark.parametrize("case", STAGES)
def test_other_stages_are_exported_and_proved(case: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = saved(tiny_checkpoint, tmp_path / "tuned", STAGES[case])
    checkpoint = load_checkpoint(folder)
    options = ExportOptions(("fp32", "int4"), formats=("onnx",))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", options, parity_gate(checkpoint))
    assert [g.parity.status for g in manifest.graphs] == ["passed", "passed"]
    model = reference(folder)
    with Embedder(tmp_path / "bundle", threads=1, precision="fp32") as embedder:
        np.testing.assert_allclose(embedder.encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_litert_has_them_too(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = saved(tiny_checkpoint, tmp_path / "tuned", STAGES["four Dense, two of them with tanh"])
    options = ExportOptions(("fp32",), formats=("litert",), buckets=(64,))
    export_bundle(load_checkpoint(folder), tmp_path / "bundle", options, assumed)
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        np.testing.assert_allclose(embedder.encode(TEXTS), reference(folder).encode(TEXTS), atol=1e-5)


def test_the_audit_sees_every_dense_stage(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Each of them exchanged for another one is found, whether it is folded or stored as it is."""
    right = saved(tiny_checkpoint, tmp_path / "right", STAGES["four Dense, two of them with tanh"])
    options = ExportOptions(("fp32", "int4"))
    manifest = export_bundle(load_checkpoint(right), tmp_path / "bundle", options, assumed)
    paths = [tmp_path / "bundle" / graph.file for graph in manifest.graphs]
    for path in paths:
        audit_graph(path, load_checkpoint(right))
    for stage in sorted(right.glob("*_Dense")):
        from safetensors.torch import load_file, save_file

        file = stage / "model.safetensors"
        kept = file.read_bytes()
        tensors = {n: t.clone() for n, t in load_file(file).items()}
        tensors["linear.weight"][0, 0] += 0.5
        save_file(tensors, file)
        other = load_checkpoint(right)
        for path in paths:
            with pytest.raises(AuditError, match=r"dense\."):
                audit_graph(path, other)
        del other
        file.unlink()
        file.write_bytes(kept)


def test_a_missing_stage_among_many_has_a_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = saved(tiny_checkpoint, tmp_path / "tuned", STAGES["five Dense without end"])
    checkpoint = load_checkpoint(folder)
    names = hypotheses.alone(checkpoint.config, checkpoint.dense)
    told = [n for n in names if "Dense" in n]
    assert told == [
        "all Dense stages missing",
        "only the first Dense stage",
        *(f"only the first {n} Dense stages" for n in (2, 3, 4)),
    ]


def test_a_dropout_before_the_pooling_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = saved(tiny_checkpoint, tmp_path / "tuned", STAGES["a Dropout"])
    modules = json.loads((folder / "modules.json").read_text())
    modules[1], modules[2] = modules[2] | {"idx": 1}, modules[1] | {"idx": 2}
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="lists the stages Transformer, Dropout, Pooling"):
        load_checkpoint(folder)


@pytest.mark.parametrize("dim", [24, 64, 1000])
def test_a_stored_dimension_is_the_default(dim: int, editable: Path, tmp_path: Path) -> None:
    change(editable / MODEL, {"truncate_dim": dim})
    checkpoint, model = load_checkpoint(editable), reference(editable)
    options = ExportOptions(("fp32",))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", options, parity_gate(checkpoint))
    assert manifest.graphs[0].parity.status == "passed" and manifest.dims == (64,)
    assert load_manifest(tmp_path / "bundle").truncate_dim == (24 if dim == 24 else None)
    with warnings.catch_warnings(), Embedder(tmp_path / "bundle", threads=1) as embedder:
        warnings.simplefilter("error", EmbeddingWarning)
        assert embedder.get_embedding_dimension() == model.get_embedding_dimension() == min(dim, 64)
        for verb in ("encode", "encode_query", "encode_document"):
            expected = getattr(model, verb)(TEXTS)
            found = getattr(embedder, verb)(TEXTS, normalize_embeddings=False)
            np.testing.assert_allclose(found, expected, atol=1e-5)
            unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(getattr(embedder, verb)(TEXTS), unit, atol=1e-5)
        assert embedder.encode("a", dim=64).shape == model.encode("a", truncate_dim=64).shape == (64,)
        with embedder.truncate_embeddings(None):
            assert embedder.encode("a").shape == (64,)
    with Embedder(tmp_path / "bundle", threads=1, truncate_dim=64) as embedder:
        assert embedder.encode("a").shape == (64,)


@pytest.mark.parametrize("dim", [0, -3, "24", True, 1.5])
def test_a_stored_dimension_that_is_none_is_refused(dim: Any, editable: Path) -> None:
    change(editable / MODEL, {"truncate_dim": dim})
    with pytest.raises(CheckpointError, match=r"truncate_dim is .*; expected a positive integer"):
        load_checkpoint(editable)


def test_a_dense_stage_as_bin_is_converted_as_advised(tiny_checkpoint: Path, tmp_path: Path) -> None:
    wanted = reference(tiny_checkpoint).encode(TEXTS)
    reference(tiny_checkpoint).save_pretrained(str(tmp_path / "old"), safe_serialization=False)
    assert (tmp_path / "old" / "2_Dense" / "pytorch_model.bin").exists()
    with pytest.raises(CheckpointError, match=r"2_Dense has its weights as pytorch_model\.bin") as caught:
        load_checkpoint(tmp_path / "old")
    converted = run_advised(str(caught.value), tmp_path)
    export_bundle(load_checkpoint(converted), tmp_path / "bundle", ExportOptions(("fp32",)), assumed)
    with Embedder(tmp_path / "bundle", threads=1) as embedder:
        np.testing.assert_allclose(embedder.encode(TEXTS), wanted, atol=1e-5)


# Prompts that are left out of the mean


@pytest.fixture(scope="module")
def unpooled(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpooled") / "tuned"
    model = reference(tiny_checkpoint)
    model.set_pooling_include_prompt(False)
    model.save_pretrained(str(folder))
    checkpoint = load_checkpoint(folder)
    assert not checkpoint.include_prompt
    options = ExportOptions(("fp32", "int8", "int4"))
    manifest = export_bundle(checkpoint, folder.parent / "bundle", options, parity_gate(checkpoint))
    assert [g.parity.status for g in manifest.graphs] == ["passed"] * 3
    return folder


def test_prompts_are_left_out_of_the_mean(unpooled: Path, tiny_bundle: Path) -> None:
    model = reference(unpooled)
    long = "word and more of it " * 700
    with Embedder(unpooled.parent / "bundle", threads=1, precision="fp32") as embedder:
        for texts in ([*TEXTS, "", long], TEXTS[:1]):
            for verb in ("encode", "encode_query", "encode_document"):
                expected = getattr(model, verb)(texts)
                np.testing.assert_allclose(getattr(embedder, verb)(texts), expected, atol=1e-5)
        for prompt in ("a", "query: ", "Instruct: find it\nQuery:", "word " * 3000):
            expected = model.encode(TEXTS, prompt=prompt)
            np.testing.assert_allclose(embedder.encode(TEXTS, prompt=prompt), expected, atol=1e-5)
        prompt = embedder.prompts["query"]
        pooled = embedder.encode(prompt + TEXTS[0])
        assert np.abs(pooled - embedder.encode_query(TEXTS[0])).max() > 1e-3
        other = embedder.manifest.space_id
        hidden = embedder.encode(TEXTS[0], prompt_name="query", output_value="token_embeddings")
        assert len(hidden) == len(embedder.tokenizer.encode(prompt + TEXTS[0]))
    with Embedder(tiny_bundle, threads=1) as embedder:
        assert embedder.manifest.space_id != other  # the same weights, other vectors
        np.testing.assert_allclose(
            embedder.encode_query(TEXTS[0])[:4], model.encode(prompt + TEXTS[0])[:4], atol=1e-5
        )


def test_a_mixture_of_prompts_in_one_batch(unpooled: Path) -> None:
    model = reference(unpooled)
    asked = [Request(p, t) for p in ("", "query: ", "a longer prompt | ") for t in TEXTS]
    with Embedder(unpooled.parent / "bundle", threads=1, precision="fp32") as embedder:
        (window,) = embedder.windows(asked, Options())
        for request, vector in zip(asked, window.vectors, strict=True):
            expected = model.encode(request.text, prompt=request.prompt or None)
            np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_litert_cannot_know_prompts(unpooled: Path, tmp_path: Path) -> None:
    options = ExportOptions(("fp32",), formats=("onnx", "litert"), buckets=(64,))
    with pytest.raises(ExportError, match=r"include_prompt is false.*--format onnx"):
        export_bundle(load_checkpoint(unpooled), tmp_path / "bundle", options, assumed)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("off", [-1, 1, None])
def test_the_gate_sees_prompts_counted_wrongly(
    off: int | None, unpooled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Cutter.pieces

    def wrong(self: Cutter, request: Request) -> Pieces:
        found = right(self, request)
        shifted = 0 if off is None else max(0, found.unpooled + off)
        return found._replace(unpooled=shifted if found.unpooled else 0)

    checkpoint = load_checkpoint(unpooled)
    monkeypatch.setattr(Cutter, "pieces", wrong)
    with pytest.raises(ParityError, match="prompt's tokens"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(("fp32",)), parity_gate(checkpoint))
