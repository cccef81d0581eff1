"""Packages of a LiteRT file that vendors' clients open: what is inside, and how it is packed."""
