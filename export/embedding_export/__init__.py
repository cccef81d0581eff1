"""Checkpoint → bundle: reads a sentence-transformers EmbeddingGemma and writes graphs for devices."""
