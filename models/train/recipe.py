"""The recipe, in order: data, tokenizer, bag, encoder, checkpoint, and the quantization-aware variant.

The only file that knows the order. Every step leaves a file behind and is skipped when that is there, so that
the same command resumes where it was interrupted.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from standin_config import PROMPTS
from standin_weights import Shape
from tokenizers import Tokenizer
from torch import Tensor

from train import build, corpus, curves, fit, heldout, qat, start, vocabulary, write
from train.bag import Bag, idf, loss_of
from train.batches import WEIGHTS, Sampler, Side, prompt_text, side
from train.build import Plan, Split
from train.corpus import DataSet
from train.encoder import SHAPE, Encoder
from train.finish import finish
from train.losses import DIMS

QAT_NAME = "demo-qat-q4_0-unquantized"
_CONTROL_WEIGHT = 0.05
_START_SAMPLE, _FINISH_SAMPLE = 4_000, 500


@dataclass(frozen=True)
class Settings:
    """Everything that was chosen.

    `rates`: peak learning rates of layers, norms, Dense stages and table. `kept`: of the way that training
    took the encoder's weights, the share that they keep (Wortsman et al., Robust fine-tuning of zero-shot
    models, 2022).
    `bfloat16`: the encoder's layers multiply in it, which on some processors is more than twice as fast;
    weights and sums stay float32.
    """

    shape: Shape = SHAPE
    dims: tuple[int, ...] = DIMS
    temperature: float = 0.1
    whitening: float = 0.3
    constant: float = 0.2
    bag_batch: int = 1_024
    bag_rate: float = 0.003
    bag_steps: int = 4_000
    encoder_batch: int = 256
    rates: tuple[float, float, float, float] = (1e-3, 5e-4, 2e-4, 1e-4)
    encoder_steps: int = 4_000
    kept: float = 0.9
    qat_steps: int = 200
    save_every: int = 100
    seed: int = 0
    threads: int = 2
    bfloat16: bool = False


class Recipe:
    """The steps for one plan and one set of settings."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan, self.settings = plan, settings
        self.tokenizer = self._tokenizer()
        self.sets, self.dev = self._sets("train"), self._sets("dev")
        lower = corpus.lower_case(self.tokenizer)
        self.around = {name: lower.encode(prompt_text(name)).ids for name in ("", *PROMPTS)}

    def make(self, out: Path) -> None:
        """Train, and write the checkpoint and its quantization-aware variant."""
        encoder = self.finished()
        tokenizer = self.plan.folder / "tokenizer.json"
        write.write(encoder, self.settings.shape, tokenizer, out)
        (out / "curves.svg").write_text(curves.draw(self.plan.folder / "stages") + "\n", encoding="utf-8")
        self.plan.note(f"wrote {out}")
        write.write(self.aware(encoder), self.settings.shape, tokenizer, self.plan.folder / QAT_NAME)
        self.plan.note(f"wrote {self.plan.folder / QAT_NAME}")
        worth = json.dumps(self.worth(encoder), indent=1)
        (self.plan.folder / "worth.json").write_text(worth + "\n", encoding="utf-8")
        self.plan.note(f"wrote {self.plan.folder / 'worth.json'}")

    def finished(self) -> Encoder:
        """Both stages and the last change."""
        return self._finish(self.encoder(self.bag()))

    def worth(self, encoder: Encoder) -> dict[str, dict[str, dict[str, float]]]:
        """What the layers are worth: held-out figures of encoder, encoder without attention, and bag.

        The bag is given the same last change as the encoder.
        """
        models = {
            "encoder": encoder,
            "encoder without attention": without_attention(encoder, self._new()),
            "bag": self._finish(self._started(self.bag(), update=0.0)),
        }
        held: dict[Split, list[DataSet]] = {"dev": self.dev, "test": self._sets("test")}
        return {
            name: {split: heldout.score(model, sets) for split, sets in held.items()}
            for name, model in models.items()
        }

    def _finish(self, encoder: Encoder) -> Encoder:
        finish(encoder, self._sample(_FINISH_SAMPLE), self.settings.whitening, self.settings.constant)
        return encoder

    def bag(self) -> Bag:
        """Stage 1."""
        s = self.settings
        # One direction of the encoder is common to all tokens, so that the bag has a component less.
        model = Bag(self._weights(), self.around, s.shape.hidden - 1, s.seed)
        groups = [{"params": [model.table], "lr": s.bag_rate}]
        fit.run(model, self._stage("bag", model, groups, s.bag_steps, s.bag_batch))
        return model

    def encoder(self, bag: Bag) -> Encoder:
        """Stage 2: starts as the whitened bag, and is drawn back to it a little at the end."""
        s = self.settings
        model = self._started(bag, start.UPDATE)
        first = [p.detach().clone() for p in model.parameters()]
        fit.run(model, self._stage("encoder", model, self._groups(model), s.encoder_steps, s.encoder_batch))
        with torch.no_grad():
            for weight, at_first in zip(model.parameters(), first, strict=True):
                weight.copy_(torch.lerp(at_first, weight, s.kept))
        return model

    def _started(self, bag: Bag, update: float) -> Encoder:
        model = self._new()
        start.set_from_bag(model, bag.table.detach(), self._after(bag), self.settings.seed, update)
        return model

    def _new(self) -> Encoder:
        s = self.settings
        products = torch.bfloat16 if s.bfloat16 else torch.float32
        return Encoder(s.shape, self.around, s.seed, s.threads, products)

    def aware(self, encoder: Encoder) -> Encoder:
        """The last steps again, on the Q4_0 grid."""
        s = self.settings
        model = self._new()
        model.load_state_dict(encoder.state_dict())
        qat.prepare(model)
        groups = self._groups(model)
        for group in groups:
            group["lr"] *= 0.3
        fit.run(model, self._stage("qat", model, groups, s.qat_steps, s.encoder_batch))
        qat.release(model)
        return model

    def _groups(self, model: Encoder) -> list[dict[str, Any]]:
        layers, norms, dense, table = self.settings.rates
        named = dict(model.encoder.named_parameters())
        tables = [p for n, p in named.items() if "embed_tokens" in n]
        others = [p for n, p in named.items() if "embed_tokens" not in n]
        stages = [*model.wide.parameters(), *model.narrow.parameters()]
        # A layer's influence is its last norm's weight: it grows after the layer has learned something.
        return [
            {"params": [p for p in others if p.dim() > 1], "lr": layers},
            {"params": [p for p in others if p.dim() == 1], "lr": norms},
            {"params": stages, "lr": dense},
            {"params": tables, "lr": table},
        ]

    def _stage(
        self, name: str, model: Bag | Encoder, groups: list[dict[str, Any]], steps: int, batch: int
    ) -> fit.Stage:
        s = self.settings
        sampler = Sampler(self.sets, batch, s.seed)
        full, smaller = s.shape.hidden, s.dims[1:]

        def loss(step: int) -> Tensor:
            # All components each time and one shorter dim in turn: half the cost of all dims.
            return loss_of(model, sampler.batch(step), s.temperature, (full, smaller[step % len(smaller)]))

        folder = self.plan.folder / "stages"
        folder.mkdir(parents=True, exist_ok=True)
        check = _check(model, self.dev)
        return fit.Stage(name, loss, groups, steps, folder, check, s.save_every)

    def _after(self, bag: Bag) -> Tensor:
        """Whitening of the bag's vectors, and nothing of the common direction: [H, H]."""
        hidden = self.settings.shape.hidden
        with torch.no_grad():
            vectors = torch.cat([bag(sample) for sample in self._sample(_START_SAMPLE)])
        after = torch.zeros(hidden, hidden)
        after[:-1, :-1] = start.whitening(vectors, self.settings.whitening)
        return after

    def _sample(self, most: int) -> list[Side]:
        """Some texts of every data set, at most this many of each, with the STS prompt."""
        rng = np.random.default_rng(self.settings.seed)
        return [
            side(s.right, rng.choice(len(s), size=min(len(s), most), replace=False), "STS") for s in self.sets
        ]

    def _weights(self) -> NDArray[np.float32]:
        """Idf of every token over the training texts; little for the control tokens and the prompts' own."""
        counts, texts = np.zeros(self.settings.shape.vocab, np.int64), 0
        for data in self.sets:
            np.add.at(counts, data.right.prompted.ids.astype(np.int64), 1)
            texts += len(data)
        weights = idf(counts, texts)
        weights[self.around[""]] = _CONTROL_WEIGHT
        return weights

    def _tokenizer(self) -> Tokenizer:
        path = self.plan.folder / "tokenizer.json"
        if not path.exists():
            made = vocabulary.learn(build.texts(self.plan), self.settings.shape.vocab)
            vocabulary.save(made, path)
            self.plan.note(f"tokenizer: {made.get_vocab_size()} entries")
        return Tokenizer.from_file(str(path))

    def _sets(self, split: Split) -> list[DataSet]:
        found = []
        for name in WEIGHTS:
            file = self.plan.file(name, split)
            data = corpus.load(name, file, self.tokenizer, file.with_suffix(".npz"))
            found += [data] if len(data) else []
        return found


def without_attention(encoder: Encoder, copy: Encoder) -> Encoder:
    """The encoder's weights put into `copy`, whose attention adds nothing."""
    copy.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for name, parameter in copy.encoder.named_parameters():
            if "post_attention_layernorm" in name:
                parameter.fill_(-1.0)
    return copy


def _check(model: Bag | Encoder, dev: list[DataSet]) -> Callable[[], dict[str, float]]:
    return lambda: heldout.score(model, dev)
