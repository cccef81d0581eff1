"""Checks that a loaded reference computes the model that its checkpoint describes, by running the model.

A library may silently attend causally, or over another window: so its behaviour is tested, not its version.
"""

from collections.abc import Set
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_runtime.bundle import Source
from embedding_runtime.errors import EmbeddingError, InputError

if TYPE_CHECKING:
    import torch

    from embedding_export.checkpoint.checkpoint import Checkpoint


class ReferenceLoadError(EmbeddingError):
    """The reference cannot be loaded, or does not compute the model that the checkpoint describes."""


def require_same_weights(bundle: Source, reference: Source) -> None:
    """Refuse a reference of other weights than the bundle's.

    Raises:
        InputError: it is another model's.
    """
    if bundle.weights_sha256 != reference.weights_sha256:
        raise InputError(
            f"The bundle was exported from {bundle.name} (weights {bundle.weights_sha256[:12]}), but this "
            f"reference is of {reference.name} (weights {reference.weights_sha256[:12]}). Give the "
            "checkpoint that the bundle was exported from."
        )


def require_bidirectional(transformer: Any) -> None:
    """Change the last token; the first hidden state must change too, otherwise the library silently attends
    causally."""
    import torch

    last = transformer.config.vocab_size - 1
    ids = torch.tensor([[2, last // 2, last // 3], [2, last // 2, last]])
    with torch.inference_mode():
        first = transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    if _relative(first[0], first[1]) < 1e-5:
        raise ReferenceLoadError(
            f"transformers {version('transformers')} runs this model causally: the first token does not see "
            "the last. It ignores use_bidirectional_attention; install the pinned version: "
            "pip install 'embedding-edge[validate]'"
        )


def require_weights(transformer: Any, checkpoint: "Checkpoint") -> None:
    """Every weight of the reference must be the checkpoint's, by its name and its first row.

    transformers fills weights that it does not find in the files with random numbers, and only warns. It does
    so with all weights if the class is not the one that saved them.
    """
    import torch

    loaded = {_bare(name): value for name, value in transformer.state_dict().items()}
    in_files = _first_rows(checkpoint.path, loaded.keys())

    def is_other(name: str, value: torch.Tensor) -> bool:
        shape, row = in_files.get(name, (None, value[:1]))
        return shape != tuple(value.shape) or not torch.equal(value[:1].float(), row.to(value.dtype).float())

    if others := [name for name, value in loaded.items() if is_other(name, value)]:
        raise ReferenceLoadError(
            f"The reference was loaded as {type(transformer).__name__}, and {len(others)} of its "
            f"{len(loaded)} weights are not those of {checkpoint.path}, such as {others[0]}: transformers "
            "fills what it does not find with random numbers, and only warns. Either config.json names "
            "another class than the one that saved the weights, or the versions are not the pinned ones: "
            "pip install 'embedding-edge[validate]'"
        )


def _first_rows(folder: Path, names: Set[str]) -> "dict[str, tuple[tuple[int, ...], torch.Tensor]]":
    """Shape and first row of each tensor of a folder whose bare name is in `names`, by that name."""
    from safetensors import safe_open

    single = folder / "model.safetensors"
    rows = {}
    for path in [single] if single.exists() else sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if _bare(name) in names:
                    part = file.get_slice(name)
                    rows[_bare(name)] = tuple(part.get_shape()), part[:1]
    return rows


def _bare(name: str) -> str:
    """A tensor's name without the prefix of a class that holds the encoder."""
    for prefix in ("model.", "language_model."):
        name = name.removeprefix(prefix)
    return name


def require_layers(transformer: Any, checkpoint: "Checkpoint") -> None:
    """The reference's layers must be local and global where the checkpoint's are, with the same window."""
    config = checkpoint.config
    kinds = {"sliding_attention": "local", "full_attention": "global"}
    layer_types = tuple(kinds.get(t, t) for t in transformer.config.layer_types)
    if layer_types != config.layer_types:
        raise ReferenceLoadError(
            f"The reference has layers {layer_types}, the checkpoint {config.layer_types}. Its config.json "
            "is read differently by this version of transformers; install the pinned one."
        )
    if "local" not in layer_types or config.window + 2 > config.max_position_embeddings:
        return
    inside, outside = _reach(transformer, layer_types.index("local"), config.window)
    if inside < 1e-6 or outside > 1e-3 * inside:  # a masked token moves nothing at all
        reference_window = transformer.config.sliding_window - 1
        raise ReferenceLoadError(
            f"The reference attends over {reference_window} tokens to each side, the checkpoint over "
            f"{config.window}. Reload it with the repaired sliding_window (config_overrides "
            f"{checkpoint.config_overrides})."
        )


def _reach(transformer: Any, layer: int, window: int) -> tuple[float, float]:
    """How much a layer's output at token 0 moves when its input changes at token `window`, and one beyond."""
    import torch

    seen: list[torch.Tensor] = []
    noise = torch.randn(transformer.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def disturb(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        states = (args[0] if args else kwargs["hidden_states"]).clone()
        states[1, window] = noise * states[0].norm() / states[0].shape[0] ** 0.5
        states[2, window + 1] = states[1, window]
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    def record(_module: Any, _args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[:, 0])

    block = transformer.layers[layer]
    hooks = [block.register_forward_pre_hook(disturb, with_kwargs=True), block.register_forward_hook(record)]
    ids = (torch.arange(window + 2) % transformer.config.vocab_size).repeat(3, 1)
    try:
        with torch.inference_mode():
            transformer(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return _relative(seen[0][1], seen[0][0]), _relative(seen[0][2], seen[0][0])


def _relative(a: "torch.Tensor", b: "torch.Tensor") -> float:
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())
