"""Opens an ONNX graph that another tool wrote, and runs it on the reference's own token ids.

It accepts the layouts that converters write. The inputs are `input_ids` and `attention_mask`, and others that
take zeros or positions. The output is `sentence_embedding`, or token states, which are pooled here as the
reference pools them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_runtime.bundle import Precision
from embedding_runtime.engines.onnx_session import with_data
from embedding_runtime.errors import BundleError, InputError
from embedding_validate.audit.foreign import Foreign, Layout, describe_file
from embedding_validate.measures import metrics
from embedding_validate.reference.answers import Answers
from embedding_validate.runners.calls import Call, Floats, Result

_VECTORS = ("sentence_embedding", "sentence_embeddings", "embeddings")
_STATES = ("last_hidden_state", "token_embeddings")
# Operators that only graphs of a precision have, most telling first.
_SIGNS: tuple[tuple[Precision, frozenset[str]], ...] = (
    ("int4", frozenset({"MatMulNBits", "GatherBlockQuantized"})),
    (
        "int8",
        frozenset(
            {
                "MatMulInteger",
                "MatMulIntegerToFloat",
                "DynamicQuantizeMatMul",
                "QLinearMatMul",
                "DequantizeLinear",
            }
        ),
    ),
)


def open_onnx(path: Path, answers: Answers, normalize: bool) -> Foreign:
    """Open the graph; `normalize` says whether to normalise the token states that are pooled here, as the
    checkpoint does.

    Raises:
        BundleError: ONNX Runtime does not load it.  InputError: its outputs have no known layout.
    """
    import onnx
    import onnxruntime

    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        model = with_data(path, options, path)
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
        operators = {n.op_type for n in onnx.load(str(path), load_external_data=False).graph.node}
    except Exception as e:  # both libraries raise classes of their own without a common base
        raise BundleError(f"{path} is not an ONNX graph that can be run here ({str(e)[:200]}).") from e
    outputs = [o.name for o in session.get_outputs()]
    output = next((n for n in (*_VECTORS, *_STATES) if n in outputs), None)
    if output is None:
        raise InputError(f"{path} has the outputs {outputs}; this audit knows {[*_VECTORS, *_STATES]}.")
    precision: Precision = next((p for p, signs in _SIGNS if signs & operators), "fp32")
    inputs, states = [i.name for i in session.get_inputs()], output in _STATES
    opened = _OnnxGraph(session, output, states, answers, normalize)
    note = f"The file ends in {output}; it was pooled here over the mask."
    layout = Layout("onnx", precision, inputs, outputs)
    return Foreign(
        opened.run, describe_file(path, layout), path, batches=True, notes=(note,) if states else ()
    )


@dataclass(frozen=True)
class _OnnxGraph:
    """An opened graph; `states` says whether its output is one state per token instead of a vector."""

    session: Any
    output: str
    states: bool
    answers: Answers
    normalize: bool

    def run(self, call: Call) -> list[Result]:
        """Vectors for the reference's ids, padded to the longest with 0."""
        ids = [self.answers.by_probe[p.id].ids for p in call.probes]
        batch = np.zeros((len(ids), max(map(len, ids))), dtype=np.int64)
        mask = np.zeros_like(batch)
        for row, sequence in enumerate(ids):
            batch[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
        (output,) = self.session.run([self.output], self._feeds(batch, mask))
        vectors = _pooled(output, mask, self.normalize) if self.states else output.astype(np.float32)
        return [Result(i, v) for i, v in zip(ids, vectors, strict=True)]

    def _feeds(self, batch: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        feeds = {
            "input_ids": batch,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(batch),
            "position_ids": np.broadcast_to(np.arange(batch.shape[1]), batch.shape),
        }
        names = [i.name for i in self.session.get_inputs()]
        if unknown := [n for n in names if n not in feeds]:
            raise InputError(f"The graph takes the inputs {unknown}; this audit knows {sorted(feeds)}.")
        types = {i.name: np.int32 if "int32" in i.type else np.int64 for i in self.session.get_inputs()}
        return {n: feeds[n].astype(types[n]) for n in names}


def _pooled(states: NDArray[Any], mask: NDArray[np.int64], normalize: bool) -> Floats:
    """The mean over real tokens, as the reference pools; normalised if the checkpoint does."""
    weights = mask[:, :, None].astype(np.float64)
    means = ((states * weights).sum(1) / weights.sum(1)).astype(np.float32)
    return np.stack([metrics.normalized(v) for v in means]) if normalize else means
