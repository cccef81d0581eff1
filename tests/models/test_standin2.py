"""EmbeddingGemma 2's stand-in: the published names, shapes and files, and weights in which every part counts.

The faults are made in the reference's own configuration and weights, as in `test_standin`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin
import standin2_weights
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

SHORT = "Which planet is known as the Red Planet?"
LONG = " ".join(f"{word} {i}" for i, word in enumerate((SHORT + " Mars, it is said.").split() * 3))
LAYOUTS = ("published", "composite", "text")


def made(folder: Path, dialect: Any = "published", **options: Any) -> Path:
    standin.write(folder, standin.Options(model="embeddinggemma-2", dialect=dialect, **options))
    return folder


def tensors(folder: Path) -> dict[str, NDArray[np.float32]]:
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text model alone, which sentence-transformers loads as it is."""
    return made(tmp_path_factory.mktemp("second") / "text", "text")


@pytest.fixture(scope="module")
def right(tiny: Path) -> NDArray[np.float32]:
    return vectors(load(tiny))


def load(folder: Path) -> Any:
    torch.set_num_threads(1)
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def vectors(model: Any) -> NDArray[np.float32]:
    result: NDArray[np.float32] = model.encode([SHORT, LONG])
    return result


def test_tensors_are_the_published_ones(tmp_path: Path, tiny: Path) -> None:
    """Under a prefix beside towers, whose bounds are scalars; alone without one."""
    published, text = tensors(made(tmp_path / "it")), tensors(tiny)
    own = {name.removeprefix("language_model."): t for name, t in published.items() if "language" in name}
    assert own.keys() == text.keys()
    assert all(np.array_equal(own[name], text[name]) for name in text)
    others = {name: t.shape for name, t in published.items() if not name.startswith("language_model.")}
    assert {name.partition(".")[0] for name in others} == {
        "audio_tower",
        "embed_audio",
        "embed_vision",
        "vision_tower",
    }
    assert sum(shape == () for shape in others.values()) == 4
    assert len(text) == 6 * 17 + 5
    model = load(tiny)[0].auto_model.state_dict()
    assert {name: tuple(t.shape) for name, t in model.items()} == {n: t.shape for n, t in text.items()}


def test_full_has_the_parameters_of_the_published_model() -> None:
    sizes = standin2_weights.encoder(standin2_weights.FULL)
    assert len(sizes) == 413
    assert sum(int(np.prod(size)) for size in sizes.values()) == 271_002_648


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_every_layout(tmp_path: Path, layout: str) -> None:
    folder = made(tmp_path / "it", layout)
    config = json.loads((folder / "config.json").read_text())
    text = config if layout == "text" else config["text_config"]
    assert config["random_weights"] is True
    assert text["model_type"] == "embedding_gemma2_text"
    wide = {"head_dim": 48, "num_key_value_heads": 1}
    assert text["per_layer_config"] == {"02": wide, "05": wide}
    assert text["max_position_embeddings"] == 262_144
    assert bool(config.get("vision_config")) == (layout == "published")
    assert (folder / "chat_template.jinja").exists() == (layout == "published")
    modalities = json.loads((folder / "sentence_bert_config.json").read_text())["modality_config"]
    assert ("message" in modalities) == (layout == "published")
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert len(prompts) == 20 and prompts["Summarization"] == prompts["STS"]
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added if token["special"]}
    assert len(ids) == 5 + 19
    if layout != "text":
        assert config["image_token_id"] == ids["<|image|>"]
        assert config["eoa_token_index"] == ids["<audio|>"]


@pytest.mark.parametrize(("dtype", "shards"), [("bfloat16", 1), ("float16", 3)])
def test_narrow_dtypes_are_rounded_as_torch_rounds(
    tmp_path: Path, tiny: Path, dtype: Any, shards: int
) -> None:
    narrow = load(made(tmp_path / "it", "text", dtype=dtype, shards=shards)).state_dict()
    for name, value in load(tiny).state_dict().items():
        assert torch.equal(narrow[name], value.to(getattr(torch, dtype)).float()), name


def test_options_of_the_other_model_are_refused(tmp_path: Path) -> None:
    for options in ({"plain": True}, {"outliers": True}):
        with pytest.raises(ValueError, match="options of embeddinggemma alone"):
            made(tmp_path / "it", **options)
    with pytest.raises(ValueError, match="dialect is transformers-5: expected one of published"):
        made(tmp_path / "it", "transformers-5")
    with pytest.raises(ValueError, match="dialect is text: expected one of transformers-4"):
        standin.write(tmp_path / "it", standin.Options(dialect="text"))


def test_the_stream_passes_what_float16_holds(tiny: Path) -> None:
    """On `<bos>` and `<eos>`; and the per-layer gate reads channels that are large in every token."""
    model, streams, read = load(tiny), [], []
    for layer in model[0].auto_model.layers:
        layer.register_forward_hook(
            lambda _, __, out: streams.append(out[0] if isinstance(out, tuple) else out)
        )
        gate = layer.ple_block.per_layer_input_gate
        gate.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].reshape(-1, 64)))
    model.encode(SHORT)
    last = np.abs(streams[-1].reshape(-1, 64).numpy())
    assert np.flatnonzero((last > 65_504).any(axis=1)).tolist() == [0, len(last) - 1]
    for seen in read:
        ordinary = np.abs(seen.numpy()[1:-1])
        assert np.median(ordinary.max(axis=1) / np.median(ordinary, axis=1)) > 10


def fault_window(model: Any) -> None:
    model[0].auto_model.config.sliding_window -= 1


def fault_wider_window(model: Any) -> None:
    model[0].auto_model.config.sliding_window += 1


def fault_scalars(model: Any) -> None:
    """Of one layer, and not of the last, where the final norm takes it out again."""
    model[0].auto_model.layers[3].layer_scalar.fill_(1.0)


def fault_value_norm(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.self_attn.v_norm = torch.nn.Identity()


def fault_scaled_scores(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.self_attn.scaling = layer.self_attn.head_dim**-0.5


def fault_offset(model: Any) -> None:
    for name, value in model.state_dict().items():
        if name.endswith("layernorm.weight"):
            value += 1


def fault_per_layer(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.ple_block.per_layer_input_gate.weight.data.zero_()


def fault_gelu(model: Any) -> None:
    for layer in model[0].auto_model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


FAULTS = {name.removeprefix("fault_"): f for name, f in list(globals().items()) if name.startswith("fault_")}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_shows(tiny: Path, right: NDArray[np.float32], fault: str) -> None:
    model = load(tiny)
    with torch.no_grad():
        FAULTS[fault](model)
    assert np.abs(vectors(model)[1] - right[1]).max() > 1e-4


@pytest.mark.full
def test_full_size(tmp_path: Path) -> None:
    folder = made(tmp_path / "full", "text", size="full", dtype="bfloat16")
    model = load(folder)
    words = " ".join(f"{word} {i}" for i, word in enumerate((SHORT + " Mars, it is said.").split() * 12))
    before = model.encode(words)
    assert model.tokenizer(words)["input_ids"].__len__() > 520
    model[0].auto_model.config.sliding_window -= 1
    assert np.abs(model.encode(words) - before).max() > 3e-5
