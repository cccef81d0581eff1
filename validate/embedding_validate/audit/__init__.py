"""Judges graphs that other tools wrote, in the same way as ours."""
