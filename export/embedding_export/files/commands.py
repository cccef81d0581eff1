"""Commands that error messages print for another environment, complete so that a copied line runs."""

import os
import shlex
import subprocess
from pathlib import Path

from embedding_export.files.hub import hub_id_of

# The folder that these commands write, in the current one.
NEW_FOLDER = "NEW_FOLDER"


def saving_again(checkpoint: Path) -> str:
    """The command that loads a checkpoint with sentence-transformers and saves it as `NEW_FOLDER`, as
    safetensors.

    A folder of the hub's cache is named by its id, so that missing files are fetched.
    """
    hub = hub_id_of(checkpoint)
    source = repr(str(checkpoint)) if hub is None else f"{hub[0]!r}, revision={hub[1]!r}"
    return python_command(
        "from sentence_transformers import SentenceTransformer; "
        f"SentenceTransformer({source}).save_pretrained({NEW_FOLDER!r})"
    )


def python_command(code: str) -> str:
    """A shell command that runs Python code."""
    words = ["python", "-c", code]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
