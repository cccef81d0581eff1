"""Reads, embeds and scores a user's own corpus."""
