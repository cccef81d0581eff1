"""Probe texts, and texts of exact lengths."""
