"""Search a folder of .txt files by meaning, with the vectors in a usearch index beside them.

Usage: python runtime/examples/search_folder.py BUNDLE FOLDER QUESTION
The index is made on the first search and again when a file changes. Needs: pip install usearch
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime import Embedder

INDEX, NAMES = "search.usearch", "search.json"


def usearch_index() -> Any:
    """The class of usearch. The import is late: if usearch 2.26 is imported before the engine, the engine
    crashes."""
    return import_module("usearch.index").Index


def build(embedder: Embedder, folder: Path, stamps: dict[str, int]) -> Any:
    """Embed every file, its name as the title, and keep index and names beside the files."""
    texts = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in stamps]
    titles = [Path(name).stem for name in stamps]
    index = usearch_index()(ndim=embedder.get_embedding_dimension(), metric="cos", dtype="f32")
    if texts:
        vectors = embedder.encode_document(texts, titles=titles, overflow="chunk")
        index.add(np.arange(len(texts)), vectors)
    index.save(str(folder / INDEX))
    (folder / NAMES).write_text(json.dumps([embedder.manifest.space_id, stamps]))
    return index


def open_index(embedder: Embedder, folder: Path) -> tuple[Any, list[str]]:
    """The index of a folder, made again if a file or the model has changed."""
    stamps = {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("*.txt"))}
    names_file = folder / NAMES
    if names_file.exists() and json.loads(names_file.read_text()) == [embedder.manifest.space_id, stamps]:
        return usearch_index().restore(str(folder / INDEX)), list(stamps)
    return build(embedder, folder, stamps), list(stamps)


def main(bundle: str, folder: str, question: str) -> None:
    """Print the three best files."""
    with Embedder.load(bundle) as embedder:
        index, names = open_index(embedder, Path(folder))
        for match in index.search(embedder.encode_query(question), 3):
            print(f"{1 - match.distance:.4f} {names[match.key]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
