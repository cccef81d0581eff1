"""The model that is trained: transformers' own Gemma 3 encoder, mean pooling and two Dense stages.

Knows nothing of files. Texts of a batch are run in groups of like length, so that little is padding, and the
groups run side by side, forwards and backwards, each on one thread: threads that share every small operation
would wait for each other most of the time.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from standin_weights import Shape
from torch import Tensor, nn
from transformers import Gemma3TextConfig, Gemma3TextModel

from train import forward
from train.batches import Side
from train.corpus import Ints

# One local and one global layer, one key/value head, as EmbeddingGemma has them in small.
SHAPE = Shape(
    hidden=384,
    intermediate=512,
    heads=3,
    head_dim=64,
    query_scalar=64,
    layers=(False, True),
    dense=512,
    vocab=32_000,
    max_length=2_048,
    sliding_window=512,
    attention_norm=0.0,
)
_GROUP_TOKENS = 1_024


def config(shape: Shape) -> Gemma3TextConfig:
    """The shape as transformers' configuration; everything else is EmbeddingGemma's."""
    return Gemma3TextConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=len(shape.layers),
        num_attention_heads=shape.heads,
        num_key_value_heads=1,
        head_dim=shape.head_dim,
        query_pre_attn_scalar=shape.query_scalar,
        layer_types=["full_attention" if wide else "sliding_attention" for wide in shape.layers],
        sliding_window=shape.sliding_window,
        max_position_embeddings=shape.max_length,
        use_bidirectional_attention=True,
        rms_norm_eps=1e-6,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )


class _Together(torch.autograd.Function):
    """Parts of a batch that were computed side by side, joined; backwards they run side by side again.

    The parts' gradients are summed in the parts' order, whichever is done first: the same batch gives the
    same gradients bit by bit.
    """

    @staticmethod
    def forward(ctx: Any, run: "_Run", rows: Tensor, *weights: Tensor) -> Tensor:
        """[B, H] of parts [b, H] that were computed from copies of `rows` [T, H] and of `weights`."""
        ctx.run = run
        return torch.cat([part.detach() for part in run.parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the rows and of the weights."""
        run: _Run = ctx.run
        shares = gradients[0].split_with_sizes([len(part) for part in run.parts])

        def one(part: Tensor, own: Tensor, share: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(part, (own, *run.weights), share)

        rows, *weights = zip(*run.pool.map(one, run.parts, run.rows, shares), strict=True)
        return None, torch.cat(rows), *(torch.stack(w).sum(0, dtype=torch.float32) for w in weights)


@dataclass(frozen=True)
class _Run:
    """Results of the groups of a batch, the token rows that each began with, and the weights all used."""

    parts: list[Tensor]
    rows: Sequence[Tensor]
    weights: Sequence[Tensor]
    pool: ThreadPoolExecutor


class Encoder(nn.Module):
    """`prompts` are the ids around a text for each prompt name: `<bos>`, the prompt, `<eos>`.

    `products` is the dtype in which the layers multiply matrices.
    """

    def __init__(
        self,
        shape: Shape,
        prompts: dict[str, list[int]],
        seed: int,
        threads: int = 1,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = Gemma3TextModel(config(shape))
        self.wide = nn.Linear(shape.hidden, shape.dense, bias=False)
        self.narrow = nn.Linear(shape.dense, shape.hidden, bias=False)
        self.prompts = {name: np.array(ids) for name, ids in prompts.items()}
        self.pool = ThreadPoolExecutor(threads)
        self.products = products

    def forward(self, side: Side) -> Tensor:
        """Vectors [B, H] of the side's texts, not normalised."""
        return self.each([side])[0]

    def each(self, sides: Sequence[Side]) -> list[Tensor]:
        """Vectors [B, H] of every side; one pass for all of them."""
        vectors: Tensor = self.narrow(self.wide(self._means(sides)))
        return list(vectors.split_with_sizes([len(s.lengths) for s in sides]))

    def widened(self, side: Side) -> Tensor:
        """What the last Dense stage is given for the side's texts: [B, dense]."""
        wide: Tensor = self.wide(self._means([side]))
        return wide

    def _means(self, sides: Sequence[Side]) -> Tensor:
        """Mean token states [B, H] of all texts, side by side."""
        texts = [text for side in sides for text in self._texts(side)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        groups = [_padded([texts[i] for i in rows]) for rows in _groups(order, texts)]
        # One look into the table for all: its gradient has the table's size, whatever the number of rows.
        rows = self.encoder.embed_tokens(torch.cat([ids.flatten() for ids, _ in groups]))
        weights = forward.weights_of(self.encoder)
        learning = torch.is_grad_enabled()
        own = [r.detach().requires_grad_(learning) for r in rows.split([ids.numel() for ids, _ in groups])]
        used = forward.cast(weights, self.products)

        def pooled(group: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
            with torch.set_grad_enabled(learning):
                ids, lengths = group
                mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
                states = forward.last_hidden(self.encoder, used, rows.view(*ids.shape, -1), mask)
                return (states * mask[:, :, None]).sum(1) / lengths[:, None]

        run = _Run(list(self.pool.map(pooled, groups, own)), own, list(used.values()), self.pool)
        joined: Tensor = _Together.apply(run, rows, *weights.values())  # type: ignore[no-untyped-call]
        return joined[torch.from_numpy(np.argsort(order, kind="stable"))]

    def _texts(self, side: Side) -> Iterator[Ints]:
        """The ids of every text of a side, with what goes around them."""
        around = self.prompts[side.prompt]
        for text in np.split(side.ids, side.lengths.cumsum()[:-1]):
            yield np.concatenate([around[:-1], text, around[-1:]])


def _padded(texts: list[Ints]) -> tuple[Tensor, Tensor]:
    """Ids [b, S], padded on the right, and the length of each."""
    lengths = np.array([len(t) for t in texts])
    ids = np.zeros((len(texts), lengths.max()), np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.concatenate(texts)
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def _groups(order: list[int], texts: list[Ints]) -> list[list[int]]:
    """Texts of rising length in groups of at most 1,024 tokens, padding included."""
    groups: list[list[int]] = [[]]
    for row in order:
        if (len(groups[-1]) + 1) * len(texts[row]) > _GROUP_TOKENS and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    return groups
