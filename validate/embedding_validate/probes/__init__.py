"""Probe texts, and texts with an exact number of tokens."""
