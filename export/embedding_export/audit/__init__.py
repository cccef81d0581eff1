"""The weight audit: what a graph stores against the checkpoint."""
