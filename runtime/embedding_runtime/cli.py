"""The command `embed-text`, by the name under which programs start it."""

from embedding_runtime.embed_text.cli import main

__all__ = ["main"]
