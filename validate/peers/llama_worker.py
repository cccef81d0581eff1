"""llama.cpp as a peer of the comparison; `llama_convert` makes the files that it runs.

Runs in an environment of its own (llama.txt) and serves `llama.cpp-Q8_0` and `llama.cpp-Q4_0`. A batch is one
call; each text is a sequence of its own, which llama.cpp pools and sends through the Dense stages.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from embedding_validate.compare.measure.protocol import Ids, Run, serve

Floats = np.ndarray[Any, np.dtype[np.float32]]
CONVERT = Path(__file__).with_name("llama_convert.py")
# No shape of the comparison has more tokens in a text, or in a batch.
MOST_TOKENS = 2048


def open_as(kind: str) -> Callable[[dict[str, Any]], Callable[[], Run]]:
    """How to open one of the kinds; converted once, by a process of its own, into the user's cache."""

    def prepare(spec: dict[str, Any]) -> Callable[[], Run]:
        import llama_cpp  # so that loading is timed without it

        _silenced(llama_cpp)
        llama_cpp.llama_backend_init()

        def load() -> Run:
            path = Path(os.environ["XDG_CACHE_HOME"]) / f"{kind}.gguf"
            if not path.exists():
                subprocess.run([sys.executable, CONVERT, spec["checkpoint"], kind, path], check=True)
            settings = llama_cpp.llama_model_default_params()
            model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
            if not model:
                raise RuntimeError(f"llama.cpp does not load {path}")
            width = llama_cpp.llama_model_n_embd(model)

            @cache
            def context(texts: int) -> Any:
                parameters = llama_cpp.llama_context_default_params()
                parameters.n_ctx = MOST_TOKENS * texts
                parameters.n_batch = parameters.n_ubatch = MOST_TOKENS
                parameters.n_seq_max, parameters.embeddings = texts, True
                parameters.n_threads = parameters.n_threads_batch = spec["threads"]
                return llama_cpp.llama_init_from_model(model, parameters)

            def run(ids: Ids) -> Floats:
                batch = _batch(llama_cpp, ids)
                if status := llama_cpp.llama_encode(context(len(ids)), batch):
                    raise RuntimeError(f"llama_encode gave {status}")
                llama_cpp.llama_batch_free(batch)
                pooled = [
                    np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_seq(context(len(ids)), i), (width,))
                    for i in range(len(ids))
                ]
                vectors: Floats = np.array(pooled, np.float32)
                vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
                return vectors

            return run

        return load

    return prepare


@cache  # which keeps the callback for as long as llama.cpp may call it
def _silenced(llama_cpp: Any) -> Any:
    callback = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(callback, None)
    return callback


def _batch(llama_cpp: Any, ids: Ids) -> Any:
    """All tokens of all texts, each text under its own number."""
    batch = llama_cpp.llama_batch_init(ids.size, 0, 1)
    batch.n_tokens = ids.size
    for at, (text, position) in enumerate(np.ndindex(ids.shape)):
        batch.token[at], batch.pos[at] = int(ids[text, position]), position
        batch.n_seq_id[at], batch.logits[at] = 1, True
        batch.seq_id[at][0] = text
    return batch


if __name__ == "__main__":
    sys.exit(serve({kind: open_as(kind) for kind in ("llama.cpp-Q8_0", "llama.cpp-Q4_0")}))
