"""A sentence-transformers checkpoint, read and checked as a whole."""
