"""sentence-transformers' own evaluators, and what MTEB's wrapper asks, on an Embedder as on the reference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import evaluation

from embedding_runtime import Embedder
from embedding_validate.probes import texts

PASSAGES = [text for _, text in texts.library().passages][:30]
TITLES = {title: i for i, (title, _) in enumerate(texts.library().passages[:30])}
ASKED = [(text, TITLES[title]) for text, title in texts.library().questions if title in TITLES]
GRADES = list(np.linspace(0, 1, 10))
A, B, C = PASSAGES[:10], PASSAGES[10:20], PASSAGES[20:30]


def searched(**options: Any) -> Any:
    return evaluation.InformationRetrievalEvaluator(
        {f"q{i}": text for i, (text, _) in enumerate(ASKED)},
        {f"d{i}": text for i, text in enumerate(PASSAGES)},
        {f"q{i}": {f"d{place}"} for i, (_, place) in enumerate(ASKED)},
        **options,
    )


EVALUATORS: dict[str, Callable[[], Any]] = {
    "similarity": lambda: evaluation.EmbeddingSimilarityEvaluator(A, B, GRADES),
    "similarity, all functions": lambda: evaluation.EmbeddingSimilarityEvaluator(
        A, B, GRADES, similarity_fn_names=["cosine", "dot", "euclidean", "manhattan"]
    ),
    "similarity, int8": lambda: evaluation.EmbeddingSimilarityEvaluator(A, B, GRADES, precision="int8"),
    "similarity, binary": lambda: evaluation.EmbeddingSimilarityEvaluator(A, B, GRADES, precision="binary"),
    "search": searched,
    "search, shortened": lambda: searched(truncate_dim=32),
    "search, a chunk at a time": lambda: searched(corpus_chunk_size=7, query_prompt="query: "),
    "triplets": lambda: evaluation.TripletEvaluator(A, B, C),
    "triplets, by distance": lambda: evaluation.TripletEvaluator(A, B, C, similarity_fn_names=["euclidean"]),
    "pairs": lambda: evaluation.BinaryClassificationEvaluator(A, B, [0, 1] * 5),
    "paraphrases": lambda: evaluation.ParaphraseMiningEvaluator(
        {str(i): t for i, t in enumerate(PASSAGES)}, [("0", "1"), ("2", "3")]
    ),
    "reranking": lambda: evaluation.RerankingEvaluator(
        [{"query": q, "positive": [PASSAGES[i]], "negative": PASSAGES[:i][:5] or A} for q, i in ASKED]
    ),
}


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> SentenceTransformer:
    torch.set_num_threads(1)
    return SentenceTransformer(str(tiny_checkpoint), device="cpu", model_kwargs={"dtype": torch.float32})


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.filterwarnings("ignore::embedding_runtime.EmbeddingWarning")
def test_the_same_scores(
    name: str, embedder: Embedder, reference: SentenceTransformer, tmp_path: Path
) -> None:
    make = EVALUATORS[name]
    wanted = make()(reference, None)
    found = make()(embedder, str(tmp_path))
    assert found.keys() == wanted.keys() and found
    rounding = 2e-3 if "int8" in name else 1e-5
    for metric, value in wanted.items():
        assert found[metric] == pytest.approx(value, abs=rounding), metric
    assert any(tmp_path.iterdir()), "the evaluator's own report"


def test_evaluate(embedder: Embedder, reference: SentenceTransformer) -> None:
    make = EVALUATORS["triplets"]
    assert embedder.evaluate(make()) == reference.evaluate(make())


def test_what_mteb_asks(embedder: Embedder, reference: SentenceTransformer) -> None:
    """Of the model's metadata, and of encoding with the prompts it has resolved itself."""
    card = embedder.model_card_data
    assert card.model_name or card.base_model
    assert card.base_model_revision is None or isinstance(card.base_model_revision, str)
    assert embedder.max_seq_length == reference.max_seq_length == embedder.get_max_seq_length()
    assert embedder.prompts == reference.prompts
    for verb in ("encode", "encode_query", "encode_document"):
        options: dict[str, Any] = {"prompt": "task: ", "batch_size": 4, "show_progress_bar": False}
        ours, theirs = (getattr(m, verb)(A, **options) for m in (embedder, reference))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    scores = embedder.similarity(*(cast(Any, torch.from_numpy(ours)) for _ in range(2)))
    assert isinstance(scores, torch.Tensor)
    np.testing.assert_allclose(scores, reference.similarity(theirs, theirs), atol=1e-5)


@pytest.mark.parametrize("inputs", ["one", ["one", "two"], []])
@pytest.mark.parametrize("value", ["sentence_embedding", "token_embeddings"])
@pytest.mark.parametrize("to_numpy", [True, False])
def test_tensors(
    inputs: Any, value: Any, to_numpy: bool, embedder: Embedder, reference: SentenceTransformer
) -> None:
    options: dict[str, Any] = {"convert_to_tensor": True, "output_value": value, "convert_to_numpy": to_numpy}
    ours, theirs = (m.encode(inputs, **options) for m in (embedder, reference))
    assert type(ours) is type(theirs)
    for found, wanted in zip(ours, theirs, strict=True) if isinstance(ours, list) else [(ours, theirs)]:
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_tokenizer_counts_as_the_reference_does(
    embedder: Embedder, reference: SentenceTransformer
) -> None:
    for text in (*A, "", "naïve café 日本"):
        assert embedder.tokenizer.encode(text) == reference.tokenizer.encode(text)
