"""Decides which parts of a graph have 4 bits and which 8, to keep a target cosine at the least size."""
