"""Measures systems, each in a process of its own."""
