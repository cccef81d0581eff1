"""The training recipe, end to end on packages in small: the same code as the real run, in seconds."""

import dataclasses
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny_sources
import torch
from sentence_transformers import SentenceTransformer
from standin_weights import Shape
from torch.nn.utils.rnn import pad_sequence
from train import build, corpus, measure, qat, requests, start
from train.batches import Batch, Sampler, Side, side
from train.build import Plan
from train.decontaminate import Excluded, read_texts
from train.encoder import Encoder
from train.finish import finish
from train.fit import Stage, run
from train.pairs import read_pairs
from train.recipe import QAT_NAME, Recipe, Settings

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.weights.quantize import q4_0_blocks
from embedding_validate.tutorial import golden

SHAPE = Shape(64, 96, 2, 16, 16, (False, True), 96, 700, 2_048, 512, 0.0)
SETTINGS = Settings(
    shape=SHAPE,
    dims=(64, 32),
    bag_batch=32,
    bag_steps=12,
    encoder_batch=16,
    encoder_steps=6,
    qat_steps=3,
)
EVALUATED = "a quick animal number 33 that looks like a dog"


@dataclasses.dataclass(frozen=True)
class Run:
    plan: Plan
    recipe: Recipe
    out: Path
    counts: dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    work = tmp_path_factory.mktemp("train")
    tiny_sources.write_packages(work / "raw")
    torch.set_num_threads(1)
    plan = Plan(work, Excluded([EVALUATED]), 0, lambda line: None)
    counts = build.build(plan)
    recipe = Recipe(plan, SETTINGS)
    recipe.make(work / "checkpoint")
    return Run(plan, recipe, work / "checkpoint", counts)


def test_every_data_set_has_pairs(done: Run) -> None:
    assert all(counts["train"] > 0 for counts in done.counts.values()), done.counts
    sources = json.loads((done.plan.folder / "data" / "sources.json").read_text())
    assert all(row["licence"] and row["archive"] for row in sources)


def test_no_text_of_the_evaluation_is_left(done: Run) -> None:
    assert done.counts["wordnet-gloss"]["in the evaluation"] > 0
    for file in (done.plan.folder / "data").glob("*.tsv"):
        assert not any(EVALUATED in text for pair in read_pairs(file) for text in pair), file


def test_splits_share_no_group(done: Run) -> None:
    """A definition held out is nowhere in the training split of its data sets."""
    held = {p.right for s in ("dev", "test") for p in read_pairs(done.plan.file("wordnet-gloss", s))}
    trained = {p.right for p in read_pairs(done.plan.file("wordnet-gloss", "train"))}
    assert held
    assert not held & trained


def test_the_checkpoint_is_read_and_is_the_trained_model(done: Run) -> None:
    checkpoint = load_checkpoint(done.out)
    assert checkpoint.do_lower_case
    assert checkpoint.config.layer_types == ("local", "global")
    reference = SentenceTransformer(str(done.out), device="cpu", model_kwargs={"dtype": torch.float32})
    texts = ["A red Apple in the garden", "dog", "The old horse of the island"]
    expected = reference.encode(texts, prompt_name="STS")
    encoder = done.recipe.finished()  # read back: both stages are done
    encoder.load_state_dict({name: v.bfloat16().float() for name, v in encoder.state_dict().items()})
    lower = corpus.lower_case(done.recipe.tokenizer)
    encoded = corpus.encode([f" {t}" for t in texts], lower)
    ids, lengths = encoded.take(np.arange(3))
    with torch.no_grad():
        found = measure.normalised(encoder(Side(ids, lengths, encoded.keys, "STS")).numpy())
    assert np.abs(found - expected).max() < 1e-4


def test_what_the_layers_are_worth_is_written_down(done: Run) -> None:
    worth = json.loads((done.plan.folder / "worth.json").read_text())
    assert set(worth) == {"encoder", "encoder without attention", "bag"}
    assert all(0 < found["dev"]["mean"] <= 1 and "mean" in found["test"] for found in worth.values())


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's stage stopped in its middle and taken up by another `Recipe`: the same weights."""
    settings = dataclasses.replace(SETTINGS, encoder_steps=9, save_every=2)

    def recipe(name: str) -> Recipe:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(done.plan.folder / "data", folder / "data")
            shutil.copy(done.plan.folder / "tokenizer.json", folder)
        return Recipe(dataclasses.replace(done.plan, folder=folder), settings)

    def stop(sampler: Sampler, step: int) -> Batch:
        if sampler.size == SETTINGS.encoder_batch and step == 7:
            raise KeyboardInterrupt
        return batch(sampler, step)

    whole = recipe("whole")
    expected = whole.encoder(whole.bag()).state_dict()
    batch = Sampler.batch
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Sampler, "batch", stop)
        parted = recipe("parted")
        parted.encoder(parted.bag())
    resumed = recipe("parted")
    found = resumed.encoder(resumed.bag()).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_the_curves_are_drawn(done: Run) -> None:
    drawn = ElementTree.fromstring((done.out / "curves.svg").read_text())
    curves = drawn.findall("{*}polyline")
    assert len(curves) == 4
    assert len(curves[0].attrib["points"].split()) == 2, "the means of both stages"


def test_requests_leave_the_tutorials_names_out(done: Run) -> None:
    """What the tutorial asks is neither a text nor a name of the requests, and other names have its words."""
    names = {p.right for p in read_pairs(done.plan.file("requests", "train"))}
    asked = {s.right.text.lower() for s in golden.load().scores if s.group == "classification"}
    assert asked == requests.UNSEEN
    assert not asked & names and {"technical problem", "billing support"} <= names
    texts = Excluded(s.left.text for s in golden.load().scores)
    assert not any(texts.holds(found.pair.left) for found in requests.labelled(requests.load(), 0))


def test_senses_have_another_meaning_as_negative(done: Run) -> None:
    glosses = {
        p.right for s in ("train", "dev", "test") for p in read_pairs(done.plan.file("wordnet-gloss", s))
    }
    for pair in read_pairs(done.plan.file("wordnet-senses", "train")):
        assert pair.negative in glosses and pair.negative != pair.right


def test_the_aware_variant_is_known_as_such(done: Run) -> None:
    assert load_checkpoint(done.plan.folder / QAT_NAME).source.qat == "q4_0"


def test_what_is_done_is_not_done_again(done: Run) -> None:
    files = [p for p in (done.plan.folder / "data").iterdir() if p.suffix in (".tsv", ".npz")]
    before = {p: p.stat().st_mtime_ns for p in files}
    assert build.build(done.plan) == done.counts
    Recipe(done.plan, SETTINGS)
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_an_interrupted_stage_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """The same weights, bit by bit."""

    def stage(folder: Path, stop: int) -> tuple[torch.nn.Linear, Stage]:
        torch.manual_seed(1)
        model = torch.nn.Linear(4, 2)
        folder.mkdir(exist_ok=True)

        def loss(step: int) -> torch.Tensor:
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            mean: torch.Tensor = model(x).square().mean()
            return mean

        groups = [{"params": list(model.parameters()), "lr": 0.1}]
        return model, Stage("s", loss, groups, 40, folder, dict, save_every=1)

    whole = run(*stage(tmp_path / "a", -1))
    with pytest.raises(KeyboardInterrupt):
        run(*stage(tmp_path / "b", 33))
    resumed = run(*stage(tmp_path / "b", -1))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_threads_give_the_gradients_of_one_pass(done: Run) -> None:
    """Groups that run side by side add up to what transformers gives for all texts at once."""
    encoder = Encoder(SHAPE, done.recipe.around, 0, threads=2)
    batch = build_batch(done)
    encoder(batch).square().sum().backward()
    found = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    before, after = done.recipe.around["STS"][:-1], done.recipe.around["STS"][-1:]
    texts = torch.from_numpy(batch.ids).split_with_sizes(batch.lengths.tolist())
    ids = pad_sequence([torch.tensor([*before, *t.tolist(), *after]) for t in texts], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None] + len(before) + 1
    hidden = encoder.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    encoder.narrow(encoder.wide(pooled)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, atol=1e-5, rtol=1e-3), name


def test_bfloat16_products_are_near_those_of_float32(done: Run) -> None:
    batch = build_batch(done)
    found = []
    for products in (torch.float32, torch.bfloat16):
        encoder = Encoder(SHAPE, done.recipe.around, 0, products=products)
        loss = encoder(batch).square().sum()
        torch.autograd.backward(loss)
        gradients = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
        found.append(torch.cat([loss.detach()[None], *gradients]))
    assert not torch.equal(found[0], found[1])
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > 0.999
    assert found[1][0] == pytest.approx(float(found[0][0]), rel=0.01)


def test_the_encoder_starts_as_the_bag(done: Run) -> None:
    """With layers that add nothing it computes exactly what the whitened bag computes."""
    bag = done.recipe.bag()
    encoder = Encoder(SHAPE, done.recipe.around, 0)
    after = torch.zeros(64, 64)
    after[:-1, :-1] = torch.randn(63, 63, generator=torch.Generator().manual_seed(0))
    start.set_from_bag(encoder, bag.table.detach(), after, 0, update=0.0)
    batch = build_batch(done)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(bag(batch) @ after[:-1, :-1].T, dim=-1)
        found = torch.nn.functional.normalize(encoder(batch)[:, :-1], dim=-1)
    assert torch.allclose(found, expected, atol=1e-4)


def build_batch(done: Run) -> Side:
    data = done.recipe.sets[0]
    return side(data.right, np.arange(20), "STS")


def test_fake_quantization_is_the_exporters_grid() -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    blocks = q4_0_blocks(weight.numpy())
    expected = (blocks.codes.astype(np.float32) - blocks.zeros[..., None]) * blocks.scales[..., None]
    assert np.array_equal(qat.rounded(weight).numpy(), expected.reshape(48, 64))


def test_whitening_keeps_prefixes() -> None:
    """Lower triangular, and white when it is done in full."""
    vectors = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.arange(1.0, 9.0)
    )
    w = start.whitening(vectors, 1.0)
    assert torch.equal(w, w.tril())
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    covariance = torch.cov((unit @ w.T).T)
    assert torch.allclose(covariance / covariance.diagonal().mean(), torch.eye(8), atol=0.01)


def test_finishing_whitens_orders_and_adds_a_constant(done: Run) -> None:
    encoder = Encoder(SHAPE, done.recipe.around, 0)
    batch = side(done.recipe.sets[0].right, np.arange(200) * 5, "STS")
    finish(encoder, [batch], 1.0, 0.5)
    with torch.no_grad():
        vectors = encoder(batch)
    assert (vectors[:, 0] / vectors[:, 0].mean() - 1).abs().max() < 0.5
    rest = vectors[:, 1:]
    assert vectors[:, 0].mean() == pytest.approx(0.5 * float(rest.norm(dim=1).median()), rel=0.2)
    variances = torch.nn.functional.normalize(rest, dim=-1).var(0)
    assert variances.max() < 4 * variances.median()


def test_excluded_sequences(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.tsv"
    file.write_text("3.5\tA man is playing a guitar on stage.\tTwo dogs run.\n")
    excluded = Excluded(read_texts(file))
    assert excluded.texts == 2
    assert excluded.holds("Look: a man IS playing, a guitar!")
    assert excluded.holds("there two dogs run fast")
    assert not excluded.holds("a man is playing a flute on stage")
    assert not excluded.holds("two dogs")


def test_ranks_and_correlation() -> None:
    vectors = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0, 0], [0.9, 1, 0], [1, 0.5, 0.1]], np.float32)
    assert measure.ranks(queries, vectors, np.arange(3)).tolist() == [1, 1, 3]
    a, b = np.array([1.0, 2, 2, 4, 5]), np.array([2.0, 1, 3, 3, 9])
    mean_ranks = np.corrcoef([1, 2.5, 2.5, 4, 5], [2, 1, 3.5, 3.5, 5])[0, 1]
    assert measure.spearman(a, b) == pytest.approx(mean_ranks)
