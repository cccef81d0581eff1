"""Seeded texts of a few words, for tests that only need many of them."""

import numpy as np

WORDS = ["the", "red", "planet", "mars", "ocean", "deep", "search", "query", "small", "text", "stone"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Texts of 0 to 39 words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=random.integers(0, 40))) for _ in range(count)]
