"""Runs probes through anything that gives vectors."""
