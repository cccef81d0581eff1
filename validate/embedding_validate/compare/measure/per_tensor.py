"""The int8 graph with one scale for a whole tensor of activations, as most tools write it, for timing.

Such a scale makes a text's vector depend on its batch. It is also the cheapest rounding there is, so the
difference in time is the cost of a scale per token.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import NodeProto, helper


def per_tensor(path: Path) -> bytes:
    """The int8 graph at `path`, rounding its products' inputs by DynamicQuantizeLinear; weights stay outside.

    Scores of attention keep their static scales, and everything else stays as it is.
    """
    model = onnx.load(str(path), load_external_data=False)
    nodes = list(_used(list(_rewritten(model.graph.node)), {o.name for o in model.graph.output}))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    written: bytes = model.SerializeToString()
    return written


def _rewritten(nodes: "list[NodeProto]") -> Iterator[NodeProto]:
    """`rows` are scales per row and their products; what multiplied by them is now called as its input."""
    rows: set[str] = set()
    codes: dict[str, tuple[str, str]] = {}
    renamed: dict[str, str] = {}
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if any(a.name == "block_size" for a in node.attribute):
            scale, zero = f"{node.output[0]}:scale", f"{node.output[0]}:zero"
            rows.add(node.input[1])
            codes[node.output[0]] = scale, zero
            yield helper.make_node("DynamicQuantizeLinear", node.input[:1], [node.output[0], scale, zero])
        elif node.op_type == "Mul" and rows.issuperset(node.input):
            rows.add(node.output[0])
        elif node.op_type == "Mul" and rows.intersection(node.input):
            renamed[node.output[0]] = next(name for name in node.input if name not in rows)
        else:
            if node.op_type == "MatMulIntegerToFloat" and node.input[0] in codes:
                node.input[2], node.input[4] = codes[node.input[0]]
            yield node


def _used(nodes: list[NodeProto], names: set[str]) -> Iterator[NodeProto]:
    """The nodes that something still asks for, in their order."""
    reachable = []
    for node in reversed(nodes):
        if names.intersection(node.output):
            names.update(node.input)
            reachable.append(node)
    return reversed(reachable)
