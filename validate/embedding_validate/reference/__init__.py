"""The vectors that sentence-transformers gives for the probes, computed once and cached."""
