"""Compares a bundle's graphs with the reference's answers."""
