"""Faults of an export to plant in its forward pass, its weights or its bundle, by name."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_export import pipeline
from embedding_export.architectures import registry
from embedding_export.architectures.interface.figures import Figures
from embedding_export.bundle import companions, graphs
from embedding_export.files.tokenizer_json import UnsupportedTokenizer
from embedding_export.onnx import ops as onnx_ops
from embedding_export.onnx import writer as to_onnx
from embedding_export.onnx.ops import OnnxOps
from embedding_export.weights import folding
from embedding_export.weights.folding import ArrayWeight, Weights

Patch = pytest.MonkeyPatch


def with_config(change: Callable[[Figures], dict[str, Any]]) -> Callable[[Patch], None]:
    """The forward pass is emitted for another configuration."""

    def plant(patch: Patch) -> None:
        true = registry.encode

        def encode(ops: Any, config: Figures, dense: Any, normalize: bool) -> Any:
            return true(ops, dataclasses.replace(config, **change(config)), dense, normalize)

        patch.setattr(to_onnx, "encode", encode)

    return plant


def with_window(change: Callable[[int], int]) -> Callable[[Patch], None]:
    """The forward pass is emitted for local layers of another window."""
    return with_config(lambda c: {"local_layer": dataclasses.replace(c.local_layer, window=change(c.window))})


def _swap_bases(config: Figures) -> dict[str, Any]:
    local, wide = config.local_layer, config.global_layer
    return {
        "local_layer": dataclasses.replace(local, rope_theta=wide.rope_theta),
        "global_layer": dataclasses.replace(wide, rope_theta=local.rope_theta),
    }


def _swap_first_layer_type(config: Figures) -> dict[str, Any]:
    other = "global" if config.layer_types[0] == "local" else "local"
    return {"layer_types": (other, *config.layer_types[1:])}


def with_weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Patch], None]:
    """The graph is built from other tensors."""

    def plant(patch: Patch) -> None:
        true = folding.folded

        def folded(checkpoint: Any) -> Weights:
            weights = true(checkpoint)
            return Weights({**weights.tensors, **change(dict(weights.tensors))}, weights.dense)

        patch.setattr(graphs, "folded", folded)

    return plant


def _exchange_layers(tensors: dict[str, Any]) -> dict[str, Any]:
    """Layers 2 and 3 are both local in the tiny stand-in."""
    first = {n: t for n, t in tensors.items() if n.startswith("layers.2.")}
    return {
        **{n.replace("layers.2.", "layers.3."): t for n, t in first.items()},
        **{n: tensors[n.replace("layers.2.", "layers.3.")] for n in first},
    }


def _foreign_tensor(tensors: dict[str, Any]) -> dict[str, Any]:
    """Same distribution, other numbers: as if one tensor came from another checkpoint."""
    name = "layers.1.mlp.down_proj.weight"
    values = tensors[name].array()
    shuffled = np.random.default_rng(1).permutation(values.ravel()).reshape(values.shape)
    return {name: ArrayWeight(shuffled)}


def _w_for_one_plus_w(tensors: dict[str, Any]) -> dict[str, Any]:
    norms = [n for n in tensors if n.endswith("norm.weight")]
    return {n: ArrayWeight(tensors[n].array() - 1.0) for n in norms}


def _causal(patch: Patch) -> None:
    true = onnx_ops._Blocks.bias

    def bias(self: Any, window: int | None) -> str:
        keys = self._range(self.padded) if window is None else self._offset
        queries = self.g.node(
            "Unsqueeze", self._range(self.padded if window is None else self._block), _axes(self, 1)
        )
        past = self.g.node("Unsqueeze", self.g.node("LessOrEqual", keys, queries), _axes(self, 1))
        neg = self.g.constant(np.array(onnx_ops.NEG, np.float32))
        return str(self.g.node("Where", past, true(self, window), neg))

    patch.setattr(onnx_ops._Blocks, "bias", bias)


def _axes(blocks: Any, *axes: int) -> str:
    return str(blocks.g.constant(np.array(axes, np.int64)))


def _unscaled_table(patch: Patch) -> None:
    true = OnnxOps.embedding
    patch.setattr(OnnxOps, "embedding", lambda self, weight, scale: true(self, weight, 1.0))


def _no_head_norm(patch: Patch) -> None:
    patch.setattr(
        OnnxOps,
        "head_norm",
        lambda self, x, weight, scale, _: self.g.node("Mul", x, self.g.constant(np.array(scale, np.float32))),
    )


def _plain_gelu(patch: Patch) -> None:
    patch.setattr(
        OnnxOps,
        "gelu_gate",
        lambda self, gate, up: self.g.node("Mul", self.g.node("Gelu", gate, approximate="none"), up),
    )


def _no_dense(patch: Patch) -> None:
    true = registry.encode
    patch.setattr(to_onnx, "encode", lambda ops, config, dense, normalize: true(ops, config, (), normalize))


def _unmasked_pooling(patch: Patch) -> None:
    patch.setattr(
        OnnxOps,
        "mean_pool",
        lambda self, x: self.g.node("ReduceMean", x, self.g.constant(np.array([1], np.int64)), keepdims=0),
    )


def _no_final_norm(patch: Patch) -> None:
    true = OnnxOps.rms_norm
    patch.setattr(
        OnnxOps,
        "rms_norm",
        lambda self, x, weight: x if weight == "norm.weight" else true(self, x, weight),
    )


def _no_eos(patch: Patch) -> None:
    """The bundle's tokenizer ends no text (as tokenizer.json: no table can be built from such a one)."""
    true = companions.write_text

    def build_table(*_: Any) -> None:
        raise UnsupportedTokenizer("planted")

    patch.setattr(pipeline, "build_table", build_table)

    def write_text(path: Path, text: str) -> None:
        if path.name == "tokenizer.json":
            data = json.loads(text)
            template = data["post_processor"]
            template["single"] = [
                p for p in template["single"] if p.get("SpecialToken", {}).get("id") != "<eos>"
            ]
            text = json.dumps(data)
        true(path, text)

    patch.setattr(companions, "write_text", write_text)


def _no_prompt(patch: Patch) -> None:
    true = pipeline._finish

    def finish(checkpoint: Any, *rest: Any) -> Any:
        bare = dataclasses.replace(checkpoint, prompts={**checkpoint.prompts, "query": ""})
        return true(bare, *rest)

    patch.setattr(pipeline, "_finish", finish)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "causal mask": _causal,
    "window off by one": with_window(lambda window: window - 1),
    "window halved": with_window(lambda window: window // 2),
    "RoPE bases swapped": with_config(_swap_bases),
    "one layer's type swapped": with_config(_swap_first_layer_type),
    "table scale missing": _unscaled_table,
    "w for 1 + w": with_weights(_w_for_one_plus_w),
    "q and k norm missing": _no_head_norm,
    "attention scale wrong": with_config(lambda c: {"attention_scale": c.attention_scale * 1.1}),
    "plain gelu": _plain_gelu,
    "Dense dropped": _no_dense,
    "mask ignored in pooling": _unmasked_pooling,
    "<eos> dropped": _no_eos,
    "prompt dropped": _no_prompt,
    "final norm dropped": _no_final_norm,
    "two layers exchanged": with_weights(_exchange_layers),
    "one tensor of another checkpoint": with_weights(_foreign_tensor),
}
