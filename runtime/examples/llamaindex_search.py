"""A LlamaIndex vector index over a bundle.

Usage: python runtime/examples/llamaindex_search.py BUNDLE QUESTION
Needs: pip install llama-index-core
"""

import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from embedding_runtime import Embedder
from embedding_runtime.llamaindex import llamaindex_embedding

TEXTS = [
    "Venus is often called Earth's twin because of its similar size.",
    "Mars, known for its reddish appearance, is often called the Red Planet.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]


def main(bundle: str, question: str) -> None:
    """Print the best text."""
    with Embedder.load(bundle) as embedder:
        nodes = [TextNode(text=text) for text in TEXTS]
        index = VectorStoreIndex(nodes, embed_model=llamaindex_embedding(embedder))
        for hit in index.as_retriever(similarity_top_k=1).retrieve(question):
            print(hit.get_content())


if __name__ == "__main__":
    main(*sys.argv[1:])
