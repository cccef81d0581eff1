"""A model-card snippet in Markdown, for publishers of a bundle: a pure function of `parity.json`."""

from typing import Any

_ENGINES = {"onnx": ("ONNX Runtime", "onnxruntime"), "litert": ("LiteRT", "ai-edge-litert")}
_PRECISIONS = {
    "fp32": "float32",
    "fp16": "float16 weights",
    "int8": "8-bit weights and activations",
    "int8_q4": "8-bit matrices and activations, 4-bit table",
    "int4": "4-bit and 8-bit weights",
    "mixed": "mixed precision",
}


def snippet(data: dict[str, Any]) -> str:
    """Markdown with one row per graph; figures as `parity.json` holds them."""
    lines = [
        "## Parity with the reference",
        "",
        f"Compared with sentence-transformers {data['versions']['sentence-transformers']} on "
        f"`{data['reference']['name']}` (float32, weights `{data['reference']['weights_sha256'][:16]}`) "
        f"with {_engines(data)} on {data['machine']['cpu']}.",
        "",
        "| graph | stored as | verdict | checks | least cosine | mean cosine | search overlap |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, g in data["graphs"].items():
        overlap = f"{g['ranking']['top_k_overlap']:.3f}" if g["ranking"] else "-"
        cosines = [f"{g['cosine'][n]:.6f}" if g["cosine"] else "-" for n in ("minimum", "mean")]
        stored = _PRECISIONS.get(g["precision"], g["precision"])
        if g.get("composition"):
            stored += f", composed for a mean cosine of {g['composition']['target_cosine']}"
        lines.append(
            f"| {key} | {stored} | {g['status']} | {g['checks']} | {' | '.join(cosines)} | {overlap} |"
        )
    return "\n".join(lines) + "\n"


def _engines(data: dict[str, Any]) -> str:
    """The engines of the graphs compared, with their versions."""
    formats = dict.fromkeys(key.partition("/")[0] for key in data["graphs"])
    return " and ".join(
        f"{name} {data['versions'].get(package, 'of unknown version')}"
        for name, package in (_ENGINES[f] for f in formats)
    )
