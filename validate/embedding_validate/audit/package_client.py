"""A vendor's client on a package of its kind, in a process of its own: texts in, vectors out, as JSON lines.

Its native code ends the process where it meets what it does not expect; `foreign_package` outlives that.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


def open_task(path: str) -> Callable[[str], list[float]]:
    """MediaPipe's TextEmbedder on a .task."""
    from mediapipe.tasks.python.core.base_options import BaseOptions
    from mediapipe.tasks.python.text.text_embedder import TextEmbedder, TextEmbedderOptions

    embedder = TextEmbedder.create_from_options(TextEmbedderOptions(BaseOptions(model_asset_path=path)))
    return lambda text: [float(v) for v in embedder.embed(text).embeddings[0].embedding]


def open_litertlm(path: str) -> Callable[[str], list[float]]:
    """LiteRT-LM's embedding engine on a .litertlm; too long a text is an error, as it is to MediaPipe."""
    from litert_lm.embedding_engine import EmbeddingEngine, EmbeddingOptions, InputOverflowStrategy

    engine = EmbeddingEngine(path, cache_dir=":nocache")  # it would leave packed weights beside the file
    options = EmbeddingOptions(
        normalize=False, insert_special_tokens=True, input_overflow_strategy=InputOverflowStrategy.ERROR
    )
    return lambda text: engine.compute_embedding(text, options).embedding


OPENERS = {".task": open_task, ".litertlm": open_litertlm}


def main(path: str, answers: TextIO) -> None:
    """Open `path`, then answer each text of standard input with a vector or an error."""
    try:
        embed = OPENERS[Path(path).suffix](path)
    except Exception as e:  # native errors have no common class
        _say(answers, {"error": str(e) or type(e).__name__})
        return
    _say(answers, {})
    for line in sys.stdin:
        try:
            _say(answers, {"vector": embed(json.loads(line))})
        except Exception as e:
            _say(answers, {"error": str(e) or type(e).__name__})


def _say(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    # The clients print to standard output too: the answers get it, and those lines go to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as given:
        os.dup2(2, 1)
        main(sys.argv[1], given)
        given.flush()
        os._exit(0)  # the clients' own ends print, and some crash
