"""What the demo checkpoint's card claims: it tells meanings apart, and 8 bits lose next to nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import assumed
from sentence_transformers import SentenceTransformer

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.options import ExportOptions
from embedding_export.pipeline import export_bundle
from embedding_runtime import Embedder
from embedding_runtime.bundle import Precision
from embedding_validate.tutorial import golden

DEMO = Path(__file__).parents[2] / "models" / "demo"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@pytest.fixture(scope="module")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    options = ExportOptions(precisions=PRECISIONS, dims=(384, 256, 192))
    export_bundle(load_checkpoint(DEMO), bundle, options, assumed)
    return bundle


@pytest.fixture(scope="module", params=PRECISIONS)
def demo(demo_bundle: Path, request: pytest.FixtureRequest) -> Iterator[Embedder]:
    with Embedder.load(demo_bundle, precision=request.param, threads=1) as opened:
        yield opened


def test_it_fits_into_the_repository() -> None:
    assert sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) <= 30_000_000


@pytest.mark.parametrize("prompt", [None, "STS"])
def test_the_tutorials_pairs_are_in_order(demo: Embedder, prompt: str | None) -> None:
    names = ("high similarity", "medium similarity", "low similarity")
    scores = []
    for name in names:
        score = next(s for s in golden.load().scores if s.id == f"{name}, {prompt or 'no prompt'}")
        a, b = demo.encode([score.left.text, score.right.text], prompt_name=prompt)
        scores.append(float(a @ b))
    assert scores == sorted(scores, reverse=True), scores


@pytest.mark.parametrize("prompt", [None, "STS"])
@pytest.mark.parametrize("dim", [384, 256, 192])
def test_apple_is_nearer_to_banana_than_to_car(demo: Embedder, prompt: str | None, dim: int) -> None:
    apple, banana, car = demo.encode(["apple", "banana", "car"], prompt_name=prompt, dim=dim)
    assert apple @ banana > apple @ car


@pytest.mark.parametrize("dim", [384, 256, 192])
@pytest.mark.parametrize(
    ("ticket", "name"), [("ticket 1", "Technical Support"), ("ticket 2", "Sales Inquiry")]
)
def test_the_tutorials_tickets_are_named(demo: Embedder, ticket: str, name: str, dim: int) -> None:
    asked = [s for s in golden.load().scores if s.id.startswith(ticket)]
    text = demo.encode(asked[0].left.text, prompt_name="Classification", dim=dim)
    names = demo.encode([s.right.text for s in asked], prompt_name="Classification", dim=dim)
    assert len(asked) == 3
    assert asked[int((names @ text).argmax())].right.text == name


def test_the_order_of_words_counts(demo: Embedder) -> None:
    """As it does not in a bag of token vectors."""
    a, b = demo.encode(["the dog bites the man", "the man bites the dog"])
    assert 0.5 < a @ b < 0.9999


def test_8_bits_keep_the_vectors(demo_bundle: Path) -> None:
    texts = [s.left.text for s in golden.load().scores] + [s.right.text for s in golden.load().scores]
    with Embedder.load(demo_bundle, precision="fp32") as a, Embedder.load(demo_bundle, precision="int8") as b:
        full, small = a.encode(texts, prompt_name="STS"), b.encode(texts, prompt_name="STS")
        assert (full * small).sum(1).min() > 0.96
        alone = np.stack([b.encode(t, prompt_name="STS") for t in texts])
    assert np.abs(alone - small).max() < 1e-6, "a text's vector does not depend on its batch"


def test_the_reference_gives_the_same(demo_bundle: Path) -> None:
    import torch

    reference = SentenceTransformer(str(DEMO), device="cpu", model_kwargs={"dtype": torch.float32})
    texts = ["A man is playing a GUITAR.", "", "Reset my password, please", "🍎"]
    with Embedder.load(demo_bundle, precision="fp32") as bundle:
        for prompt in (None, "STS", "query", "document"):
            found, expected = (
                bundle.encode(texts, prompt_name=prompt),
                reference.encode(texts, prompt_name=prompt),
            )
            assert np.abs(found - expected).max() < 1e-4
