"""What sentence-transformers gives for the probes, computed once and kept."""
