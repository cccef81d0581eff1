"""The reference of EmbeddingGemma 2 reads text alone, cuts it, and has the checkpoint's weights or none."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import standin
import torch
from sentence_transformers import SentenceTransformer

from embedding_validate.reference.checks import ReferenceLoadError
from embedding_validate.reference.reference import load_model

TEXTS = [
    "",
    "red",
    "an <|image|> and <|audio|>",
    " two  spaces\nand a line",
    "你好 \U0001f469 é",
    "Which planet is red? " * 9,
    "mars " * 500,
]


def made(folder: Path, dialect: Any, **options: Any) -> Path:
    standin.write(folder, standin.Options(model="embeddinggemma-2", dialect=dialect, **options))
    return folder


def loaded(folder: Path, max_seq_length: int = 8_192) -> Any:
    checkpoint: Any = SimpleNamespace(path=folder, config_overrides={}, max_seq_length=max_seq_length)
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("second") / "published", "published")


@pytest.fixture(scope="module")
def model(published: Path) -> Any:
    torch.set_num_threads(1)
    return loaded(published)


def test_text_alone_is_what_the_text_model_gives(tmp_path: Path, published: Path, model: Any) -> None:
    """Towers beside it or not: sentence-transformers' own vectors of the text model, to the last bit."""
    text = SentenceTransformer(str(made(tmp_path / "text", "text")), device="cpu")
    expected = text.encode(TEXTS)
    assert type(model[0].auto_model).__name__ == "EmbeddingGemma2Model"
    for other in (model, loaded(made(tmp_path / "composite", "composite"))):
        assert np.array_equal(other.encode(TEXTS), expected)
        assert other.prompts == text.prompts and len(other.prompts) == 20


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"shards": 3}])
def test_every_way_to_store_weights(tmp_path: Path, options: dict[str, Any]) -> None:
    vectors = loaded(made(tmp_path / "published", "published", **options)).encode(TEXTS)
    text = made(tmp_path / "text", "text", **options)
    expected = SentenceTransformer(str(text), device="cpu", model_kwargs={"dtype": torch.float32})
    assert np.array_equal(vectors, expected.encode(TEXTS))


def test_texts_are_cut(published: Path, model: Any) -> None:
    long = "mars " * 9_000
    assert model.preprocess([long])["input_ids"].shape == (1, 8_192)
    short = loaded(published, 2_048)
    assert short.max_seq_length == 2_048
    assert short.preprocess([long])["input_ids"].shape == (1, 2_048)


def test_control_tokens_break_no_batch(model: Any) -> None:
    """Neither an image that is not there nor a text that begins as if it had its own ends."""
    batch = ["<bos>mars", "red", "an <|image|> and <|audio|>"]
    ids, mask = (model.preprocess(batch)[key] for key in ("input_ids", "attention_mask"))
    rows = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    assert all((row[0], row[-1]) == (2, 1) for row in rows)
    assert rows == [model.preprocess([text])["input_ids"][0].tolist() for text in batch]
    assert np.abs(model.encode(batch) - np.stack([model.encode(text) for text in batch])).max() < 1e-6


def test_neither_pillow_nor_torchvision_is_asked_for(published: Path) -> None:
    code = (
        "import sys; sys.modules['PIL'] = sys.modules['torchvision'] = None\n"
        "from pathlib import Path; from types import SimpleNamespace\n"
        "from embedding_validate.reference.reference import load_model\n"
        f"one = SimpleNamespace(path=Path({str(published)!r}), config_overrides={{}}, max_seq_length=64)\n"
        "print(load_model(one).encode('red').shape)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ran.stdout, ran.returncode) == ("(112,)\n", 0), ran.stderr
    assert "UNEXPECTED" not in ran.stderr  # what is left out is no news


def test_random_weights_are_refused(tmp_path: Path, published: Path) -> None:
    """The text model's class on files that hold it under a prefix: transformers only warns."""
    folder = made(tmp_path / "text", "text")
    (folder / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes())
    with pytest.raises(ReferenceLoadError, match=r"as EmbeddingGemma2TextModel, and \d+ of its 107 "):
        loaded(folder)


def test_a_missing_weight_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = made(tmp_path / "it", "published")
    weights = load_file(folder / "model.safetensors")
    del weights["language_model.layers.3.layer_scalar"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReferenceLoadError, match=r"1 of its 107 weights .* layers\.3\.layer_scalar"):
        loaded(folder)


def test_the_checkpoint_stays_as_it_is(published: Path, model: Any) -> None:
    config = json.loads((published / "config.json").read_text())
    assert config["vision_config"] and config["image_token_id"] > 0
    assert (published / "chat_template.jinja").exists() and not any(
        p.is_symlink() for p in published.rglob("*")
    )
