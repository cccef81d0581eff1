"""Reads `modules.json` and the stages after the encoder: pooling, dense, normalize.

It accepts both spellings of module types and both dialects of the pooling config (sentence-transformers up to
5.x, and 6.2).
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from embedding_export.architectures.interface.ops import DenseStage
from embedding_export.errors import CheckpointError
from embedding_export.files.commands import NEW_FOLDER, saving_again
from embedding_export.files.json_files import read_fields, read_fields_if_present, read_json

_TYPE = re.compile(
    r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules)(?:\.\w+)?"
    r"\.(Transformer|Pooling|Dense|Normalize|Dropout)"
)
_ACTIVATIONS: dict[str, Literal["identity", "tanh"]] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.Tanh": "tanh",
}
# A Dropout does nothing when a model is used, wherever it stands behind the pooling.
_ORDER = re.compile(r"Transformer Pooling( Dense| Dropout)*( Normalize)?( Dropout)*")
_LEGACY_POOLING = "pooling_mode_"
_EMBEDDING = "sentence_embedding"


@dataclass(frozen=True)
class Stages:
    """The dense stages, the folders they come from, and whether an L2 norm follows.

    If `include_prompt` is False, a prompt's tokens are left out of the mean.
    """

    dense: tuple[DenseStage, ...]
    dense_folders: tuple[Path, ...]
    normalize: bool
    include_prompt: bool = True


def read_stages(folder: Path, output_size: int) -> Stages:
    """Read the stages of a checkpoint whose encoder gives vectors of `output_size`.

    Raises:
        CheckpointError: an unknown stage, another order than Transformer, Pooling, any number of Dense,
            Normalize or none (a Dropout is passed over), pooling other than the mean over all tokens, or
            dense stages that do not chain.
    """
    modules = _read_modules(folder / "modules.json")
    kinds = [kind for kind, _ in modules]
    if not _ORDER.fullmatch(" ".join(kinds)):
        raise CheckpointError(
            f"{folder / 'modules.json'} lists the stages {', '.join(kinds)}; expected Transformer, "
            "Pooling, any number of Dense, and Normalize or nothing. No other order is supported."
        )
    folders = tuple(path for kind, path in modules if kind == "Dense")
    modules = [module for module in modules if module[0] != "Dropout"]
    include_prompt = _read_pooling(modules[1][1] / "config.json", output_size)
    normalize = modules[-1][0] == "Normalize"
    if normalize:
        _check_names(modules[-1][1] / "config.json")
    dense: list[DenseStage] = []
    for i, path in enumerate(folders):
        dense.append(_read_dense(path / "config.json", i, dense[-1].out_features if dense else output_size))
    return Stages(tuple(dense), folders, normalize, include_prompt)


def check_encoder_folder(folder: Path) -> None:
    """Refuse a checkpoint whose encoder is in a folder of its own, before its files are reported as missing.

    Raises:
        CheckpointError: the message says how to move it.
    """
    file = folder / "modules.json"
    modules = _read_modules(file) if file.exists() else []
    if modules and modules[0][0] == "Transformer" and modules[0][1] != folder:
        raise CheckpointError(
            f"The encoder is in {modules[0][1]}; expected it in {folder} itself. Where sentence-transformers "
            f"is installed, one command saves it so, as {NEW_FOLDER}: {saving_again(folder)}"
        )


def _read_modules(file: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of every stage in order; kinds are Transformer, Pooling, Dense, Normalize, Dropout."""
    if not file.exists():
        raise CheckpointError(
            f"{file} is missing, so {file.parent} is not a sentence-transformers checkpoint. Expected the "
            "folder that SentenceTransformer.save_pretrained writes, or a complete copy of the repository."
        )
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise CheckpointError(f"{file} is not a list of stages. Fetch it again.")
    positions = [e.get("idx") for e in entries]
    if positions != list(range(len(entries))):
        raise CheckpointError(
            f"{file} numbers its stages {positions}; expected 0, 1, 2 ... in order. Put them in the order "
            "meant."
        )
    return [_module(file, entry) for entry in entries]


def _module(file: Path, entry: dict[str, Any]) -> tuple[str, Path]:
    kind, path = _TYPE.fullmatch(str(entry.get("type"))), entry.get("path")
    if kind is None:
        raise CheckpointError(
            f"{file}: the stage {entry.get('type')} is not supported; expected sentence-transformers' own "
            "Transformer, Pooling, Dense, Normalize and Dropout."
        )
    if entry.get("kwargs"):
        raise CheckpointError(
            f"{file}: the stage {entry['type']} takes arguments ({entry['kwargs']}): not supported."
        )
    if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise CheckpointError(f"{file}: the path {path!r} does not lie inside the checkpoint. Do not use it.")
    return kind[1], file.parent / path


def _read_pooling(file: Path, output_size: int) -> bool:
    """Whether a prompt's tokens are part of the mean."""
    fields = read_fields(file)
    flags = {k: v for k, v in fields.values.items() if k.startswith(_LEGACY_POOLING)}
    # As in the reference: flags count only where the newer key is absent; none set means the mean.
    active = [k.removeprefix(_LEGACY_POOLING).removesuffix("_tokens") for k, v in flags.items() if v]
    mode = fields.values.get("pooling_mode", active or "mean")
    if mode not in ("mean", ["mean"]):
        raise CheckpointError(
            f"{file}: pooling is {mode}; expected the mean over all tokens. Nothing else is supported."
        )
    fields.refuse_unknown(
        {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *flags}
    )
    size_key = "embedding_dimension" if "embedding_dimension" in fields.values else "word_embedding_dimension"
    if fields.integer(size_key) != output_size:
        raise fields.wrong(size_key, f"{output_size}, the size of the encoder's vectors")
    return fields.boolean("include_prompt", True)


def _read_dense(file: Path, i: int, expected_in: int) -> DenseStage:
    """One dense stage; absent keys take the reference's defaults (bias, tanh)."""
    fields = read_fields(file)
    _check_names(file, "in_features", "out_features", "bias", "activation_function", "use_residual")
    activation = fields.text("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{file}: the activation {activation} is not supported; expected Identity or Tanh of torch."
        )
    if fields.boolean("use_residual", False):
        raise CheckpointError(
            f"{file}: use_residual is true, which is not supported; expected a plain dense stage."
        )
    if fields.integer("in_features") != expected_in:
        raise fields.wrong("in_features", f"{expected_in}, the size of the stage before")
    return DenseStage(
        weight=f"dense.{i}.weight",
        bias=f"dense.{i}.bias" if fields.boolean("bias", True) else None,
        activation=_ACTIVATIONS[activation],
        in_features=expected_in,
        out_features=fields.integer("out_features"),
    )


def _check_names(file: Path, *others: str) -> None:
    """Refuse a stage that reads or writes anything but the sentence embedding."""
    fields = read_fields_if_present(file)
    for key in ("module_input_name", "module_output_name"):
        if fields.values.get(key) not in (None, _EMBEDDING):
            raise fields.wrong(key, f"{_EMBEDDING!r}")
    fields.refuse_unknown({"module_input_name", "module_output_name", *others})
