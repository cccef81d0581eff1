"""Sort support tickets into classes that are described in a few words each, without training.

Usage: python runtime/examples/classify.py BUNDLE
"""

import sys

from embedding_runtime import Embedder

LABELS = ["Billing", "Technical problem", "Cancellation", "Praise"]
TICKETS = [
    "I was charged twice this month.",
    "The application stops when I open a picture.",
    "Please close my account.",
]


def main(bundle: str) -> None:
    """Print each ticket with its class."""
    with Embedder.load(bundle) as embedder:
        labels = embedder.encode(LABELS, task="Classification")
        tickets = embedder.encode(TICKETS, task="Classification")
        scores = embedder.similarity(tickets, labels)
        for ticket, row in zip(TICKETS, scores, strict=True):
            print(f"{LABELS[row.argmax()]} ({row.max():.4f}): {ticket}")


if __name__ == "__main__":
    main(*sys.argv[1:])
