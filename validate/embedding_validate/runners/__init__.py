"""Probes through anything that gives vectors."""
