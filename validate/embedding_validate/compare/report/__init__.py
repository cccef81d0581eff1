"""Presents a comparison: page, Markdown, README's table."""
