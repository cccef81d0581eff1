"""Stamps say how stored vectors were made, so that vectors of two spaces are never mixed."""
