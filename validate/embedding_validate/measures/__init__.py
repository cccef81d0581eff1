"""Measures of difference and ranking, and their thresholds."""
