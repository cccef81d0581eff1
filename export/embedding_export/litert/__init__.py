"""LiteRT files: written, read back, and the conformance file beside them."""
