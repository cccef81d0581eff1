"""What stand-ins have of the trained model: figures measured on google/embeddinggemma-300m."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

TEXT = "Which planet is known as the Red Planet, and how far is it from the Sun?"


def tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def residuals(folder: Path) -> list[NDArray[np.float32]]:
    """The stream [tokens, channels] after every layer, for a text."""
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found: list[NDArray[np.float32]] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        found.append((out[0] if isinstance(out, tuple) else out)[0].numpy().copy())

    encoder: Any = model[0].auto_model
    for layer in encoder.layers:
        layer.register_forward_hook(keep)
    model.encode(TEXT)
    return found


def farthest(weight: NDArray[np.float32]) -> float:
    """The largest weight of any row, in the row's standard deviations."""
    return float((np.abs(weight).max(axis=1) / weight.std(axis=1)).max())


def check_peaks(stream: list[NDArray[np.float32]], first: int, last: int) -> None:
    for row in (0, -1):  # <bos>, <eos>
        assert np.abs(stream[0][row]).argmax() == first
        assert np.abs(stream[-1][row]).argmax() == last
        assert stream[0][row, first] < 0 < stream[-1][row, last]
    assert np.abs(stream[0]).max() == pytest.approx(950, rel=0.1)
    assert np.abs(stream[-1]).max() == pytest.approx(104_000, rel=0.1)
    sizes = [float(np.abs(h).max()) for h in stream]
    assert sizes == sorted(sizes)
    # Two tokens, and no other, exceed what float16 holds.
    assert np.flatnonzero((np.abs(stream[-1]) > 65_504).any(axis=1)).tolist() == [0, len(stream[-1]) - 1]


def check_gains(weights: dict[str, NDArray[np.float32]], largest: float) -> None:
    written = np.concatenate([1 + weight for name, weight in weights.items() if ".post_" in name])
    assert written.max() == pytest.approx(largest, rel=1e-3)
    assert written.min() == pytest.approx(-86, rel=1e-3)
    assert 0.005 < (written < 0).mean() < 0.05
    peak = 3 if len(weights["norm.weight"]) == 64 else 39
    assert 1 + weights["norm.weight"][peak] == pytest.approx(2 / len(weights["norm.weight"]) ** 0.5)


def check_table(table: NDArray[np.float32]) -> None:
    norms = np.linalg.norm(table, axis=1)
    assert norms.min() >= 0.999 and norms.max() <= 3.501
    assert np.median(norms) == pytest.approx(1.84, rel=0.02)
    assert norms[[2, 1]] == pytest.approx([1.21, 1.93], rel=0.01)


def test_tiny(tiny_checkpoint: Path) -> None:
    weights = tensors(tiny_checkpoint)
    check_table(weights["embed_tokens.weight"])
    check_gains(weights, 2_535 * 12**0.5)
    check_peaks(residuals(tiny_checkpoint), first=3, last=61)
    for i in range(5):  # 96 columns: a row's largest is at most 9.8 deviations out
        assert farthest(weights[f"layers.{i}.mlp.down_proj.weight"]) > 9


def test_outliers_cost_accuracy(tmp_path: Path) -> None:
    assert _loss(tmp_path / "it", plain=False) > 2 * _loss(tmp_path / "plain", plain=True)


def _loss(folder: Path, plain: bool) -> float:
    """What a vector's cosine to the exact one loses when every linear layer's input has 8 bits a row."""
    standin.write(folder, standin.Options(plain=plain))
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    before = model.encode(TEXT)

    def rounded(_: Any, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        scale = inputs[0].abs().amax(-1, keepdim=True) / 127
        return (inputs[0] / scale).round() * scale

    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.register_forward_pre_hook(rounded)
    return 1 - float(before @ model.encode(TEXT))


@pytest.mark.full
def test_full(full_checkpoint: Path) -> None:
    weights = tensors(full_checkpoint)
    check_table(weights["embed_tokens.weight"])
    check_gains(weights, 2_535)
    check_peaks(residuals(full_checkpoint), first=39, last=731)
    for i in range(24):
        for part, least in {"down_proj": 28, "up_proj": 22, "gate_proj": 16}.items():
            assert farthest(weights[f"layers.{i}.mlp.{part}.weight"]) > least, (i, part)
        assert farthest(weights[f"layers.{i}.self_attn.q_proj.weight"]) > 12
