"""Cold starts, memory, and tokenizers, each by itself."""
