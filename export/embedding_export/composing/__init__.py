"""Which parts of a graph have 4 bits and which 8: the smallest composition that holds a wanted cosine."""
