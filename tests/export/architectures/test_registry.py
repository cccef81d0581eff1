"""Every architecture says of its tensors and residuals what its encoder does with them."""

from pathlib import Path
from typing import Any

import pytest

from embedding_export.architectures.interface.figures import Layer
from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.architectures.interface.tensors import TABLE, layer_prefix, norm_takers
from embedding_export.architectures.registry import ARCHITECTURES, encode, residuals, tensor_specs
from embedding_export.checkpoint.checkpoint import Checkpoint, load_checkpoint


class Recorder:
    """`Ops` over names: a tensor is called after what made it; `took` has what each weight was given."""

    def __init__(self) -> None:
        self.took: dict[str, str] = {}
        self.shared: set[str] = set()
        self.scales: dict[str, float] = {}
        self.residuals: list[str] = []
        self.heads: list[tuple[str, str]] = []

    def embedding(self, weight: str, scale: float) -> str:
        return self._used(weight, "ids")

    def linear(self, x: str, *weights: str) -> tuple[str, ...]:
        return tuple(self._used(w, x) for w in weights)

    def linear_beside(self, x: str, weight: str, beside: str) -> str:
        assert beside in self.residuals
        return self._used(weight, x)

    def rms_norm(self, x: str, weight: str, before: float = 1.0) -> str:
        return self._used(weight, x)

    def head_norm(self, x: str, weight: str | None, scale: float, layer: Layer) -> str:
        if weight is None:
            return x
        self.scales[weight] = scale
        return self._used(weight, x)

    def rope(self, x: str, layer: Layer) -> str:
        return x

    def attention(self, q: str, k: str, v: str, layer: Layer) -> str:
        self.heads.append((q, k))
        return v

    def gelu_gate(self, gate: str, up: str) -> str:
        return up

    def residual(self, x: str, update: str, name: str) -> str:
        self.residuals.append(name)
        return name

    def scaled(self, x: str, weight: str) -> str:
        self._used(weight, x)
        return x

    def token_states(self, x: str, weight: str) -> str:
        assert self.took[weight] == x
        return x

    def mean_pool(self, x: str) -> str:
        return x

    def dense(self, x: str, stage: DenseStage) -> str:
        if not stage.weight.startswith("dense."):
            self._used(stage.weight, x)
        return x

    def l2_normalize(self, x: str) -> str:
        return x

    def _used(self, weight: str, x: str) -> str:
        if weight in self.took:
            self.shared.add(weight)
        self.took[weight] = x
        return weight


@pytest.fixture(scope="module")
def checkpoint(either_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(either_checkpoint)


@pytest.fixture(scope="module")
def recorded(checkpoint: Checkpoint) -> Recorder:
    ops: Any = Recorder()
    encode(ops, checkpoint.config, checkpoint.dense, True)
    return ops  # type: ignore[no-any-return]


def test_figures_lead_back_to_their_architecture(checkpoint: Checkpoint) -> None:
    assert checkpoint.config.model_type in ARCHITECTURES


def test_the_encoder_uses_every_tensor_once(checkpoint: Checkpoint, recorded: Recorder) -> None:
    """But for gains that belong to no layer."""
    specs = tensor_specs(checkpoint.config)
    assert recorded.took.keys() == specs.keys()
    assert all((specs[n].role, specs[n].layer) == ("gain", None) for n in recorded.shared)
    assert recorded.residuals == [r.name for r in residuals(checkpoint.config)]


def test_tensors_stand_where_their_specs_say(checkpoint: Checkpoint, recorded: Recorder) -> None:
    specs = tensor_specs(checkpoint.config)
    assert specs[TABLE].role == "table"
    for name, spec in specs.items():
        assert spec.layer is None or name.startswith(layer_prefix(spec.layer))
        if spec.role == "gain":
            assert recorded.scales.get(name, 1.0) == spec.scale
        if spec.matrix is not None:
            assert recorded.took[name] == spec.matrix
        if spec.keys is not None:
            assert (name, spec.keys) in recorded.heads
        if spec.turning == "takes_turned":
            assert specs[recorded.took[name]].turning == "gives_turned"
        if spec.unnormed:
            assert recorded.took[name] in recorded.residuals
    takers = [(norm, taker) for norm, names in norm_takers(specs).items() for taker in names]
    assert len(takers) == 5 * len(checkpoint.config.layer_types)
    assert all(recorded.took[taker] == norm for norm, taker in takers)


def test_parts_of_stored_names_are_those_of_the_specs(checkpoint: Checkpoint) -> None:
    """With what says how a tensor is stored behind the name, too."""
    part_of = ARCHITECTURES[checkpoint.config.model_type].part_of
    for name, spec in tensor_specs(checkpoint.config).items():
        if spec.role in ("table", "matrix"):
            assert part_of(name) == part_of(f"{name}:takes_turned:int8") == spec.part
    assert part_of("dense.0.weight") is None
    assert part_of("norm.weight") is None
