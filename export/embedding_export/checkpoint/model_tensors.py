"""Checks that a folder has exactly the tensors that the model needs, by name and shape, and reads them.

The architecture says what they are called and what they are for.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from embedding_export.architectures.interface.figures import Figures
from embedding_export.architectures.interface.tensors import Specs, TensorSpec
from embedding_export.architectures.registry import architecture_of, tensor_specs
from embedding_export.checkpoint.stages import Stages
from embedding_export.errors import CheckpointError
from embedding_export.files.safetensors import read_weights
from embedding_export.files.tensors import Tensor

Shapes = dict[str, tuple[int, ...]]


def read_model_tensors(
    folder: Path, config: Figures, stages: Stages
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Every tensor of encoder and dense stages by canonical name, and notes on what was left out.

    Gains are read as the factors of norms, whatever offset the files use.

    Raises:
        CheckpointError: a tensor is missing, left over, double, or of the wrong shape; or a file is damaged.
    """
    architecture, specs = architecture_of(config), tensor_specs(config)
    in_files: dict[str, Tensor] = {}
    left_out: dict[str, dict[str, None]] = {}  # by reason, the names in order

    def is_left_out(name: str) -> bool:
        canonical = architecture.canonical_name(name)
        if why := architecture.left_out(canonical):
            left_out.setdefault(why, {})[canonical] = None
        return why is not None

    for name, tensor in read_weights(folder, is_left_out).items():
        canonical = architecture.canonical_name(name)
        if canonical in in_files:
            raise CheckpointError(
                f"{tensor.file} has {canonical} twice, as {in_files[canonical].name} and as {name}. Keep the "
                "one that is meant, or fetch the checkpoint again."
            )
        in_files[canonical] = tensor
    _refuse_difference(folder, _shapes_in_files(specs), in_files)
    in_files = {name: dataclasses.replace(tensor, name=name) for name, tensor in in_files.items()}
    tensors = {name: _tensor(name, spec, in_files) for name, spec in specs.items()}
    for stage, path in zip(stages.dense, stages.dense_folders, strict=True):
        names = {"linear.weight": stage.weight} | ({"linear.bias": stage.bias} if stage.bias else {})
        part = read_weights(path, checkpoint=folder)
        shapes: Shapes = {"linear.weight": (stage.out_features, stage.in_features)}
        _refuse_difference(path, shapes | dict.fromkeys(list(names)[1:], (stage.out_features,)), part)
        tensors |= {new: dataclasses.replace(part[old], name=new) for old, new in names.items()}
    return tensors, tuple(f"{_parts(list(names))} left out: {why}" for why, names in left_out.items())


def _shapes_in_files(specs: Specs) -> Shapes:
    """The tensors that the files should hold; some are cut by rows into several of `specs`."""
    shapes: Shapes = {}
    for name, spec in specs.items():
        whole, first = spec.rows_of or (name, 0)
        before = shapes.get(whole, (0,))[0]
        shapes[whole] = (max(before, first + spec.shape[0]), *spec.shape[1:])
    return shapes


def _tensor(name: str, spec: TensorSpec, in_files: Mapping[str, Tensor]) -> Tensor:
    if spec.rows_of is not None:
        whole, first = spec.rows_of
        return in_files[whole].cut(name, first, spec.shape[0])
    return dataclasses.replace(in_files[name], offset=spec.offset)


def _parts(names: list[str]) -> str:
    """The tensor's name; if there are many, the parts of the model that they belong to."""
    if len(names) == 1:
        return names[0]
    parts = sorted({name.partition(".")[0] for name in names})
    return f"{', '.join(parts)} ({len(names)} tensors)"


def _refuse_difference(folder: Path, expected: Shapes, actual: Mapping[str, Tensor]) -> None:
    missing = sorted(expected.keys() - actual.keys())
    left_over = sorted(actual.keys() - expected.keys())
    wrong = [
        f"{name} of {actual[name].file.name} is {list(actual[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in actual and actual[name].shape != shape
    ]
    problems = [
        ("lacks tensors", missing),
        ("has tensors that no part of the model uses", left_over),
        ("has tensors of the wrong shape", wrong),
    ]
    if missing or left_over or wrong:
        faults = "; ".join(f"it {what}: {_few(names)}" for what, names in problems if names)
        adapter = any("lora_" in name or ".base_layer." in name for name in left_over)
        advice = (
            "An adapter was saved unmerged among them, without what it is scaled by: where it was trained, "
            "merge it before saving, with model[0].model = adapted.merge_and_unload(), where adapted is what "
            "peft's get_peft_model gave."
            if adapter
            else "Fetch the checkpoint again, or use the config they came with."
        )
        raise CheckpointError(f"The weights in {folder} do not fit its config: {faults}. {advice}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
