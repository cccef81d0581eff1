"""Stand-ins: sentence-transformers loads them, the options keep the function, and every fault shows.

The faults are made in the reference itself (its config or its loaded weights), so that these tests say
what the stand-in's weights can detect, whatever the exporter does.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import standin_weights
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from standin import Options
from transformers import AutoModel

SHORT = "Which planet is known as the Red Planet?"
LONG = " ".join(f"{word} {i}" for i, word in enumerate((SHORT + " Mars, it is said.").split() * 8))
TOLERANCE = 1e-5


def load(folder: Path) -> Any:
    """The reference in float32."""
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def vectors(model: Any) -> NDArray[np.float32]:
    """Vectors of a short text and of one far longer than the tiny window."""
    result: NDArray[np.float32] = model.encode([SHORT, LONG])
    return result


def made(folder: Path, **options: Any) -> Path:
    standin.write(folder, Options(**options))
    return folder


@pytest.fixture(scope="module")
def right(tiny_checkpoint: Path) -> NDArray[np.float32]:
    return vectors(load(tiny_checkpoint))


def test_reference_sees_every_stage(tiny_checkpoint: Path) -> None:
    model = load(tiny_checkpoint)
    assert [type(stage).__name__ for stage in model] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Dense",
        "Normalize",
    ]
    assert model.max_seq_length == 2048
    assert len(model.prompts) == 14
    assert model.default_prompt_name is None
    assert model.similarity_fn_name == "cosine"
    assert model[0].auto_model.config.layer_types.count("full_attention") == 2


@pytest.mark.parametrize("dialect", ["transformers-4", "transformers-5"])
@pytest.mark.parametrize("shards", [1, 3])
def test_layouts_give_the_same_vectors(
    tmp_path: Path, right: NDArray[np.float32], dialect: str, shards: int
) -> None:
    model = load(made(tmp_path / "it", dialect=dialect, shards=shards))
    assert model.max_seq_length == 2048
    assert np.array_equal(vectors(model), right)


@pytest.mark.parametrize("dialect", ["transformers-4", "transformers-5"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shards", [1, 2])
def test_narrow_dtypes_are_rounded_as_torch_rounds(
    tmp_path: Path, tiny_checkpoint: Path, dialect: str, dtype: str, shards: int
) -> None:
    narrow = load(made(tmp_path / "it", dialect=dialect, dtype=dtype, shards=shards)).state_dict()
    for name, value in load(tiny_checkpoint).state_dict().items():
        assert torch.equal(narrow[name], value.to(getattr(torch, dtype)).float()), name


@pytest.mark.parametrize("dialect", ["transformers-4", "transformers-5"])
def test_newer_layout_is_what_sentence_transformers_saves(tmp_path: Path, dialect: str) -> None:
    """Of the published layout and again of its own."""
    ours, theirs = made(tmp_path / "ours", dialect="transformers-5"), tmp_path / "theirs"
    load(made(tmp_path / "source", dialect=dialect)).save(str(theirs), create_model_card=False)
    names = sorted(path.relative_to(theirs) for path in theirs.rglob("*.*"))
    written = sorted(path.relative_to(ours) for path in ours.rglob("*.*") if path.name != "README.md")
    assert written == names
    for name in names:
        if name.suffix == ".json":
            mine, saved = (json.loads((folder / name).read_text()) for folder in (ours, theirs))
            assert decided(mine) == decided(saved), name


def decided(document: Any) -> Any:
    """A document without what depends on the session that saved it."""
    session = {"__version__", "use_cache", "is_local", "local_files_only"}
    if not isinstance(document, dict):
        return document
    return {key: value for key, value in document.items() if key not in session}


def test_outliers_keep_the_function_and_enlarge_activations(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Four input channels of every linear layer (of a head: of o_proj) are 20 times as large."""
    plain, outliers = load(tiny_checkpoint), load(made(tmp_path / "it", outliers=True))
    before, after = activations(plain), activations(outliers)
    assert np.abs(vectors(outliers) - vectors(plain)).max() <= TOLERANCE
    assert len(after) == 7 * 5 + 2
    for name, size in after.items():
        ratios = (size / before[name]).sort().values
        large = 4 * 4 if name.endswith("o_proj") else 4
        np.testing.assert_allclose(ratios[-large:], 20, rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(ratios[:-large], 1, rtol=1e-3, err_msg=name)


def activations(model: Any) -> dict[str, torch.Tensor]:
    """Root mean squares of every linear layer's input channels, for a text."""
    found: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[[Any, Any], None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            found[name] = inputs[0].flatten(0, -2).square().mean(0).sqrt()

        return hook

    linears = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    hooks = [part.register_forward_pre_hook(watch(name)) for name, part in linears.items()]
    model.encode(LONG)
    for hook in hooks:
        hook.remove()
    return found


def test_seed_decides_everything(tmp_path: Path, tiny_checkpoint: Path) -> None:
    again, other = made(tmp_path / "again"), made(tmp_path / "other", seed=1)
    for name in (
        "model.safetensors",
        "2_Dense/model.safetensors",
        "3_Dense/model.safetensors",
        "tokenizer.json",
    ):
        content = (tiny_checkpoint / name).read_bytes()
        assert (again / name).read_bytes() == content
        assert (other / name).read_bytes() != content


def edited(folder: Path, source: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with other values in config.json."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
CONFIG_FAULTS: dict[str, dict[str, Any]] = {
    "causal": {"use_bidirectional_attention": False, "sliding_window": 9},
    "window one wider": {"sliding_window": 18},
    "window one narrower": {"sliding_window": 14},
    "window halved": {"sliding_window": 9},
    "rope bases swapped": {"rope_theta": 10_000.0, "rope_local_base_freq": 1_000_000.0},
    "one local layer global": {"layer_types": ["full_attention", *LAYERS[1:]]},
    "one global layer local": {"layer_types": [*LAYERS[:4], "sliding_attention"]},
    "attention scale of head_dim": {"query_pre_attn_scalar": 32},
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_wrong_config_shows(
    tmp_path: Path, tiny_checkpoint: Path, right: NDArray[np.float32], fault: str
) -> None:
    wrong = vectors(load(edited(tmp_path / "it", tiny_checkpoint, **CONFIG_FAULTS[fault])))
    assert float(right[1] @ wrong[1]) < 0.999


def exact_gelu(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


def weight_as_factor(model: Any) -> None:
    for name, weight in model[0].auto_model.named_parameters():
        if "norm" in name:
            weight.data -= 1


def no_embedding_scale(model: Any) -> None:
    model[0].auto_model.embed_tokens.embed_scale = torch.ones(())


def no_query_norm(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.self_attn.q_norm = torch.nn.Identity()


def no_key_norm(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.self_attn.k_norm = torch.nn.Identity()


def no_final_norm(model: Any) -> None:
    model[0].auto_model.norm = torch.nn.Identity()


def layers_exchanged(model: Any) -> None:
    layers = model[0].auto_model.layers
    layers[2], layers[3] = layers[3], layers[2]


def no_dense(model: Any) -> None:
    for stage in ("3", "2"):
        model._modules[stage] = model._modules["4"]


def heads_exchanged(model: Any) -> None:
    weight = model[0].auto_model.layers[1].self_attn.q_proj.weight
    weight.data = weight.data.roll(32, dims=0)


WEIGHT_FAULTS = [
    weight_as_factor,
    no_embedding_scale,
    no_query_norm,
    no_key_norm,
    no_final_norm,
    layers_exchanged,
    no_dense,
    heads_exchanged,
]


@pytest.mark.parametrize("fault", WEIGHT_FAULTS, ids=lambda fault: fault.__name__)
def test_wrong_weights_show(
    tiny_checkpoint: Path, right: NDArray[np.float32], fault: Callable[[Any], None]
) -> None:
    model = load(tiny_checkpoint)
    fault(model)
    assert (np.sum(vectors(model) * right, axis=1) < 0.999).all()


def test_the_other_gelu_shows(tiny_checkpoint: Path, right: NDArray[np.float32]) -> None:
    model = load(tiny_checkpoint)
    exact_gelu(model)
    assert np.abs(vectors(model) - right).max() > 1e-4


def test_bos_eos_and_prompts_show(tiny_checkpoint: Path, right: NDArray[np.float32]) -> None:
    model = load(tiny_checkpoint)
    for name in ("query", "document", "STS"):
        assert float(model.encode(SHORT, prompt_name=name) @ right[0]) < 0.999
    ids = model.tokenize([SHORT])["input_ids"]
    for kept in (ids[:, :-1], ids[:, 1:]):
        with torch.no_grad():
            out = model({"input_ids": kept, "attention_mask": torch.ones_like(kept)})
        assert float(out["sentence_embedding"][0].numpy() @ right[0]) < 0.999


@pytest.mark.parametrize(("written", "distance"), [(16, 8), (512, 256), (513, 256), (257, 128)])
def test_distance_a_sliding_window_means(tmp_path: Path, written: int, distance: int) -> None:
    """What the installed transformers makes of config.json: local layers reach half of it, rounded down."""
    source = made(tmp_path / "source", sliding_window=written)
    one = edited(tmp_path / "one", source, num_hidden_layers=1, layer_types=["sliding_attention"])
    model = AutoModel.from_pretrained(one, dtype=torch.float32)
    ids = torch.full((1, 600), 700)
    with torch.no_grad():
        before = model(ids).last_hidden_state[0]
        ids[0, 0] = 701
        changed = (model(ids).last_hidden_state[0] != before).any(dim=1)
    assert int(changed.nonzero().max()) == distance


def test_full_has_the_parameters_of_the_real_model() -> None:
    sizes = [*standin_weights.encoder(standin_weights.FULL).values()]
    sizes += standin_weights.dense(standin_weights.FULL).values()
    assert sum(int(np.prod(size)) for size in sizes) == 307_581_696


def test_refuses_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileExistsError, match="remove it first"):
        made(tmp_path)
    assert standin.main([str(tmp_path), "--size", "tiny"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shards is 1000: expected 1 to"):
        made(tmp_path / "it", shards=1000)
    assert list(tmp_path.iterdir()) == []


def test_command(tmp_path: Path, tiny_checkpoint: Path) -> None:
    script = Path(standin.__file__)
    command = [sys.executable, str(script), "--size", "tiny", str(tmp_path / "it")]
    subprocess.run(command, check=True)
    for path in tiny_checkpoint.rglob("*.*"):
        assert (tmp_path / "it" / path.relative_to(tiny_checkpoint)).read_bytes() == path.read_bytes()


def test_plain_weights_are_even(tmp_path: Path) -> None:
    """Nothing is leaned on: what makes faults show is left out."""
    with safe_open(made(tmp_path / "it", plain=True) / "model.safetensors", "np") as file:
        assert abs(file.get_tensor("layers.0.mlp.gate_proj.weight")[:, 0].mean()) < 0.05
        assert file.get_tensor("embed_tokens.weight")[:, 0].std() > 0.1
        for name in ("post_attention_layernorm", "input_layernorm"):
            assert np.abs(file.get_tensor(f"layers.0.{name}.weight")).max() < 0.5


@pytest.mark.full
def test_full_size(full_checkpoint: Path) -> None:
    parameters = 0
    for path in full_checkpoint.rglob("*.safetensors"):
        with safe_open(path, "np") as file:
            parameters += sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    assert parameters == 307_581_696
    model = load(full_checkpoint)
    before = model.encode(LONG * 3)
    model[0].auto_model.config.sliding_window -= 1
    assert np.abs(model.encode(LONG * 3) - before).max() > 30 * TOLERANCE
    exact_gelu(model)
    narrow = model.encode(SHORT)
    assert np.abs(narrow - load(full_checkpoint).encode(SHORT)).max() > 10 * TOLERANCE
