"""A LangChain vector store over a bundle.

Usage: python runtime/examples/langchain_search.py BUNDLE QUESTION
Needs: pip install langchain-core
"""

import sys

from langchain_core.vectorstores import InMemoryVectorStore

from embedding_runtime import Embedder
from embedding_runtime.langchain import langchain_embeddings

TEXTS = [
    "Venus is often called Earth's twin because of its similar size.",
    "Mars, known for its reddish appearance, is often called the Red Planet.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]


def main(bundle: str, question: str) -> None:
    """Print the best text."""
    with Embedder.load(bundle) as embedder:
        store = InMemoryVectorStore.from_texts(TEXTS, langchain_embeddings(embedder))
        for document in store.similarity_search(question, k=1):
            print(document.page_content)


if __name__ == "__main__":
    main(*sys.argv[1:])
