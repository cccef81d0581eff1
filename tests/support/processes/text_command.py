"""`embed-text` as tests start it, texts for it, and its records as read and compared."""

import json
import sys
from typing import Any

import numpy as np

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from embedding_runtime.embed_text.cli import main; sys.exit(main())",
]
TEXTS = ["the red planet", "", "  spaces  ", "naïve café 日本"]


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=np.float32), expected, atol=2e-6)
