"""Measures cold starts, memory, and tokenizers, each by itself."""
