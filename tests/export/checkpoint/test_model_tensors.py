"""The weights are the model's, all of them and no others; every misfit is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import standin
import torch
from edits import ABSENT, Fields, change, change_tensors, swap
from safetensors.torch import load_file

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError

Tensors = dict[str, torch.Tensor]


def test_tensors_are_those_of_the_files_by_canonical_name(tiny_checkpoint: Path) -> None:
    tensors = load_checkpoint(tiny_checkpoint).tensors
    stored = load_file(tiny_checkpoint / "model.safetensors")
    expected = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    for i, part in enumerate(("2_Dense", "3_Dense")):
        file = tiny_checkpoint / part / "model.safetensors"
        expected[f"dense.{i}.weight"] = load_file(file)["linear.weight"]
    assert set(tensors) == set(expected)
    for name, tensor in tensors.items():
        assert tensor.name == name
        # Gains are what norms multiply by, 1 + w of the file's w; the stored bits stay what they are.
        gain = 1.0 if name.endswith("norm.weight") else 0.0
        np.testing.assert_array_equal(tensor.array(), expected[name].numpy() + np.float32(gain))
        bits = np.concatenate([np.asarray(b) for b in tensor.bits()])
        np.testing.assert_array_equal(bits, expected[name].numpy().view(np.uint32).ravel())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read(tmp_path: Path, dtype: standin.Dtype) -> None:
    standin.write(tmp_path / "half", standin.Options(dtype=dtype, shards=2))
    checkpoint = load_checkpoint(tmp_path / "half")
    assert checkpoint.source.dtype == dtype
    dense = load_file(tmp_path / "half" / "2_Dense" / "model.safetensors")["linear.weight"]
    np.testing.assert_array_equal(checkpoint.tensors["dense.0.weight"].array(), dense.float().numpy())


def test_a_prefix_and_a_language_models_head_make_no_difference(editable: Path) -> None:
    before = load_checkpoint(editable)

    def as_language_model(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    change_tensors(editable / "model.safetensors", as_language_model)
    after = load_checkpoint(editable)
    assert after.source.weights_sha256 == before.source.weights_sha256
    assert "lm_head.weight left out: an embedding does not use it" in after.source.notes


def test_dtypes_may_be_mixed(editable: Path) -> None:
    change_tensors(
        editable / "2_Dense" / "model.safetensors",
        lambda t: t.update({"linear.weight": t["linear.weight"].bfloat16()}),
    )
    assert load_checkpoint(editable).source.dtype == "bfloat16+float32"


REFUSED: list[tuple[str, Callable[[Tensors], object], str]] = [
    ("", lambda t: t.pop("norm.weight"), r"lacks tensors: norm\.weight\. "),
    ("", lambda t: t.update({"layers.0.lora_A": torch.ones(1)}), r"uses: layers\.0\.lora_A\. .*adapter"),
    (
        "",
        lambda t: t.update({"dense.0.weight": torch.ones(1)}),
        r"no part of the model uses: dense\.0\.weight",
    ),
    (
        "",
        lambda t: t.update({"f.weight": t.pop("norm.weight")}),
        r"lacks .*norm\.weight; it has .* uses: f\.weight",
    ),
    ("", lambda t: t.update({"norm.weight": torch.ones(63)}), r"norm\.weight .* is \[63\], expected \[64\]"),
    ("", lambda t: t.update({"norm.weight": torch.ones(64).to(torch.int8)}), r"norm\.weight has dtype I8"),
    ("", lambda t: t.update({"norm.weight": torch.ones(())}), r"norm\.weight is a scalar"),
    ("", lambda t: t.update({"model.norm.weight": torch.ones(64)}), r"has norm\.weight twice"),
    ("", lambda t: t["layers.2.mlp.up_proj.weight"][3, 3].fill_(torch.nan), r"up_proj\.weight holds NaN"),
    ("3_Dense", lambda t: t["linear.weight"][0, 0].fill_(torch.inf), r"3_Dense.* dense\.1\.weight holds"),
    ("3_Dense", lambda t: t.update({"residual.weight": torch.ones(2)}), r"3_Dense .* uses: residual\.weight"),
    ("2_Dense", lambda t: t.update({"weight": t.pop("linear.weight")}), r"lacks tensors: linear\.weight"),
]


@pytest.mark.parametrize(("part", "apply", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_weights_that_do_not_fit_are_refused_by_name(
    editable: Path, part: str, apply: Callable[[Tensors], object], message: str
) -> None:
    change_tensors(editable / part / "model.safetensors", apply)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(editable)


SIZES: list[tuple[Fields, str]] = [
    (
        {"vocab_size": 5000},
        r"embed_tokens\.weight of model\.safetensors is \[4096, 64\], expected \[5000, 64\]",
    ),
    ({"intermediate_size": 97}, r"wrong shape: layers\.0\.mlp\.gate_proj.* and 11 more"),
    ({"num_hidden_layers": 6}, r"lacks tensors: layers\.5\.input_layernorm\.weight, .* and 9 more"),
    ({"num_hidden_layers": 4}, r"uses: layers\.4\.input_layernorm\.weight, .* and 9 more"),
]


@pytest.mark.parametrize(("fields", "message"), SIZES)
def test_weights_of_another_size_are_refused_by_name(editable: Path, fields: Fields, message: str) -> None:
    change(editable / "config.json", fields | {"layer_types": ABSENT})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(editable)


def test_swapped_dense_files_are_refused(editable: Path) -> None:
    swap(editable / "2_Dense" / "model.safetensors", editable / "3_Dense" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"2_Dense do not fit .* is \[64, 160\], expected \[160, 64\]"):
        load_checkpoint(editable)


def test_swapped_shards_are_refused(tmp_path: Path) -> None:
    standin.write(tmp_path / "x", standin.Options(shards=2))
    swap(*sorted((tmp_path / "x").glob("model-*.safetensors")))
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors does not hold the tensors"):
        load_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("part", ["", "2_Dense"])
@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights_are_refused(editable: Path, part: str, kept: int) -> None:
    file = editable / part / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(editable)
    assert str(file) in str(error.value)
