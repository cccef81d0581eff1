"""The model that is trained: transformers' own Gemma 3 encoder, mean pooling and two Dense stages.

Knows nothing of files. Texts of a side are run in groups of like length, so that little is padding, and the
groups run side by side, forwards and backwards, each on one thread: threads that share every small operation
would wait for each other most of the time.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from standin_weights import Shape
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Gemma3TextConfig, Gemma3TextModel

from train.batches import Side

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
        """[B, H] of parts [b, H] that were computed from `rows` [T, H], detached, and `weights`."""
        ctx.run, ctx.weights = run, weights
        return torch.cat([part.detach() for part in run.parts])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the rows and of the weights."""
        run: _Run = ctx.run
        shares = gradients[0].split_with_sizes([len(part) for part in run.parts])

        def one(part: Tensor, own: Tensor, share: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(part, (own, *ctx.weights), share)

        rows, *weights = zip(*run.pool.map(one, run.parts, run.rows, shares), strict=True)
        return None, torch.cat(rows), *(torch.stack(w).sum(0) for w in weights)


@dataclass(frozen=True)
class _Run:
    """Results of the groups of a side, and the token rows that each of them began with."""

    parts: list[Tensor]
    rows: Sequence[Tensor]
    pool: ThreadPoolExecutor


class Encoder(nn.Module):
    """`prompts` are the ids around a text for each prompt name: `<bos>`, the prompt, `<eos>`."""

    def __init__(self, shape: Shape, prompts: dict[str, list[int]], seed: int, threads: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = Gemma3TextModel(config(shape))
        self.wide = nn.Linear(shape.hidden, shape.dense, bias=False)
        self.narrow = nn.Linear(shape.dense, shape.hidden, bias=False)
        self.prompts = {name: torch.tensor(ids) for name, ids in prompts.items()}
        self.pool = ThreadPoolExecutor(threads)

    def forward(self, side: Side) -> Tensor:
        """Vectors [B, H] of the side's texts, not normalised."""
        vectors: Tensor = self.narrow(self.widened(side))
        return vectors

    def widened(self, side: Side) -> Tensor:
        """What the last Dense stage is given for the side's texts: [B, dense]."""
        around = self.prompts[side.prompt]
        texts = torch.from_numpy(side.ids).split_with_sizes(side.lengths.tolist())
        order = np.argsort(side.lengths, kind="stable")
        groups = [
            _padded([torch.cat([around[:-1], texts[i], around[-1:]]) for i in rows])
            for rows in _groups(order, side.lengths + len(around))
        ]
        # One look into the table for all: its gradient has the table's size, whatever the number of rows.
        rows = self.encoder.embed_tokens(torch.cat([ids.flatten() for ids, _ in groups]))
        learning = torch.is_grad_enabled()
        own = [r.detach().requires_grad_(learning) for r in rows.split([ids.numel() for ids, _ in groups])]

        def pooled(group: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
            with torch.set_grad_enabled(learning):
                return self._pooled(rows.view(*group[0].shape, -1), group[1])

        run = _Run(list(self.pool.map(pooled, groups, own)), own, self.pool)
        joined = _Together.apply(run, rows, *self._weights())  # type: ignore[no-untyped-call]
        wide: Tensor = self.wide(joined[torch.from_numpy(np.argsort(order, kind="stable"))])
        return wide

    def _weights(self) -> list[nn.Parameter]:
        """The encoder's weights but for the table."""
        return [p for name, p in self.encoder.named_parameters() if "embed_tokens" not in name]

    def _pooled(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Means [b, H] of the last layer's output, from token rows [b, S, H]."""
        mask = torch.arange(rows.shape[1])[None, :] < lengths[:, None]
        hidden = self.encoder(inputs_embeds=rows, attention_mask=mask.long()).last_hidden_state
        pooled: Tensor = (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
        return pooled


def _padded(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids [b, S], padded on the right, and the length of each."""
    return pad_sequence(texts, batch_first=True), torch.tensor([len(t) for t in texts])


def _groups(order: "np.ndarray[tuple[int], np.dtype[np.int64]]", lengths: np.ndarray) -> list[list[int]]:
    """Rows of rising length in groups of at most 1,024 tokens, padding included."""
    groups: list[list[int]] = [[]]
    for row in order.tolist():
        if (len(groups[-1]) + 1) * int(lengths[row]) > _GROUP_TOKENS and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    return groups
